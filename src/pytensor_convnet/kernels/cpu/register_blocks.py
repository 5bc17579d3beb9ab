"""The two multiply-accumulate loops of a correlation and its gradients, as LLVM instructions.

They exist in many sizes, because their accumulators must be registers: one function for each number of filters and
columns that fits. `MOST_FILTERS` and `MOST_COLUMNS` say which sizes those are.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.llvm import (
    REGISTERS,
    array_data,
    define_function,
    element_type,
    int1,
    int64,
    load_vector,
    offset_pointer,
    shuffle,
    splat,
    store_vector,
    vector_suffix,
    vector_type,
)

MOST_FILTERS = 8 if REGISTERS == 32 else 4
"""Filters of the largest register block."""

BLOCK_FILTERS = tuple(size for size in (8, 4, 3, 2, 1) if size <= MOST_FILTERS)
"""Filters that a block may have: few sizes, so that little needs compiling, and three for the colours of images."""

MOST_COLUMNS = tuple(min(8, (REGISTERS - 1) // (filters + 1)) for filters in range(MOST_FILTERS + 1))
"""For each number of filters, the columns of its largest block: accumulators, one vector a column, one spare."""


def _call_for_size(builder, filters, columns, function_for, arguments):
    """Call ``function_for(f, x)``, where f and x are the run-time values ``filters`` and ``columns``."""
    done = builder.append_basic_block("done")
    size = builder.add(builder.mul(filters, int64(16)), columns)
    choice = builder.switch(size, done)
    for f in BLOCK_FILTERS:
        for x in range(1, MOST_COLUMNS[f] + 1):
            block = builder.append_basic_block(f"size_{f}_{x}")
            choice.add_case(int64(16 * f + x), block)
            with builder.goto_block(block):
                builder.call(function_for(f, x), arguments)
                builder.branch(done)
    builder.position_at_end(done)


def _accumulate(builder, vector, filters, columns, start, stop, operands, initial=None):
    """Emit ``for k in range(start, stop): sums[f][x] += left[f] * right[x]``; return the sums.

    They begin with ``initial[f * columns + x]``, by default with zero.

    ``operands(k)`` emits the loads of a step and returns ``left`` and ``right``. `fmuladd` is one instruction
    where the host has it.
    """
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{vector_suffix(vector)}"
    )
    initial = initial or [ir.Constant(vector, None)] * (filters * columns)
    before = builder.block
    loop, end = builder.append_basic_block("loop"), builder.append_basic_block("end")
    builder.cbranch(builder.icmp_signed("<", start, stop), loop, end)

    builder.position_at_end(loop)
    k = builder.phi(int64)
    k.add_incoming(start, before)
    sums = [[builder.phi(vector) for _ in range(columns)] for _ in range(filters)]
    left, right = operands(k)
    following = builder.add(k, int64(1))
    k.add_incoming(following, loop)
    totals = []
    for f in range(filters):
        for x in range(columns):
            total = builder.call(multiply_add, [left[f], right[x], sums[f][x]])
            sums[f][x].add_incoming(initial[f * columns + x], before)
            sums[f][x].add_incoming(total, loop)
            totals.append(total)
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, end)

    builder.position_at_end(end)
    results = []
    for total, start_value in zip(totals, initial):
        result = builder.phi(vector)
        result.add_incoming(start_value, before)
        result.add_incoming(total, loop)
        results.append(result)
    return [results[f * columns : (f + 1) * columns] for f in range(filters)]


# ----------------------------------------------------------------------------- the loop of a correlation


def _correlation_function(module, element, filters, columns):
    """The loop of `correlate_block` for one size of block."""
    vector, pointer = vector_type(element), element.as_pointer()
    name = f"pytensor_convnet.correlate_{vector_suffix(vector)}_{filters}x{columns}"
    arguments = [pointer, int64.as_pointer(), int64, int64, pointer, pointer, int64, int64, int1]
    function, builder = define_function(module, name, arguments)
    if builder is None:
        return function
    images, offsets, count, column_step, weights, out, filter_step, out_step, onto = function.args
    places = [
        offset_pointer(builder, out, builder.add(builder.mul(filter_step, int64(f)), builder.mul(out_step, int64(x))))
        for f in range(filters)
        for x in range(columns)
    ]
    fresh, old, begin = (builder.append_basic_block(label) for label in ("fresh", "old", "begin"))
    builder.cbranch(onto, old, fresh)
    with builder.goto_block(fresh):
        builder.branch(begin)
    with builder.goto_block(old):
        earlier = [load_vector(builder, vector, place) for place in places]
        builder.branch(begin)
    builder.position_at_end(begin)
    initial = []
    for value in earlier:
        phi = builder.phi(vector)
        phi.add_incoming(ir.Constant(vector, None), fresh)
        phi.add_incoming(value, old)
        initial.append(phi)

    def operands(k):
        first = offset_pointer(builder, images, builder.load(offset_pointer(builder, offsets, k)))
        right = [
            load_vector(builder, vector, offset_pointer(builder, first, builder.mul(column_step, int64(x))))
            for x in range(columns)
        ]
        row = offset_pointer(builder, weights, builder.mul(k, int64(filters)))
        left = [splat(builder, builder.load(offset_pointer(builder, row, int64(f))), vector) for f in range(filters)]
        return left, right

    sums = _accumulate(builder, vector, filters, columns, int64(0), count, operands, initial)
    for f in range(filters):
        for x in range(columns):
            store_vector(builder, sums[f][x], places[f * columns + x])
    builder.ret_void()
    return function


@intrinsic
def correlate_block(
    typing_context,
    filters,
    columns,
    images,
    images_at,
    offsets,
    offsets_at,
    count,
    column_step,
    weights,
    weights_at,
    out,
    out_at,
    filter_step,
    out_step,
    onto,
):
    """A register block of a correlation, ``filters`` by ``columns`` vectors::

        for f in range(filters):
            for x in range(columns):
                out[out_at + f * filter_step + x * out_step] = (that if onto else 0) + sum(
                    images[images_at + offsets[offsets_at + k] + x * column_step]
                    * weights[weights_at + k * filters + f]
                    for k in range(count)
                )

    where an element of ``images`` and ``out`` is the first of a vector, and one of ``weights`` a scalar.
    """
    integer = types.intp
    signature = types.void(
        integer, integer, images, integer, offsets, integer, integer, integer,
        weights, integer, out, integer, integer, integer, types.boolean,
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        f, x, images, images_at, offsets, offsets_at, count, step, weights, weights_at, out, out_at, *rest = arguments
        data = {
            place: offset_pointer(builder, array_data(context, builder, signature.args[place], array), start)
            for place, array, start in (
                (2, images, images_at),
                (4, offsets, offsets_at),
                (8, weights, weights_at),
                (10, out, out_at),
            )
        }
        element = element_type(signature.args[2])
        _call_for_size(
            builder,
            f,
            x,
            lambda filters, columns: _correlation_function(builder.module, element, filters, columns),
            [data[2], data[4], count, step, data[8], data[10], *rest],
        )
        return context.get_dummy_value()

    return signature, codegen


# -------------------------------------------------------------------------- the loop of a filter gradient


def _add_lanes(builder, vectors):
    """One short vector whose lane ``i`` is the sum over the lanes of ``vectors[i]``; their number is a power of two.

    A round adds neighbours. While there are several vectors it joins two that are half as long thereby.
    """
    count, lanes = len(vectors), vectors[0].type.count
    while len(vectors) > 1:
        evens, odds = list(range(0, 2 * lanes, 2)), list(range(1, 2 * lanes, 2))
        vectors = [
            builder.fadd(shuffle(builder, a, b, evens), shuffle(builder, a, b, odds))
            for a, b in zip(vectors[::2], vectors[1::2])
        ]
    (total,) = vectors
    while total.type.count > count:
        evens, odds = list(range(0, total.type.count, 2)), list(range(1, total.type.count, 2))
        total = builder.fadd(shuffle(builder, total, total, evens), shuffle(builder, total, total, odds))
    return total


def _filter_grad_function(module, element, filters, columns):
    """The loop of `filter_grad_block` for one size of block."""
    vector, pointer = vector_type(element), element.as_pointer()
    name = f"pytensor_convnet.filter_grad_{vector_suffix(vector)}_{filters}x{columns}"
    integers = int64.as_pointer()
    arguments = [pointer, integers, integers, int64, int64, pointer, int64, pointer, int64, int1]
    function, builder = define_function(module, name, arguments)
    if builder is None:
        return function
    images, taps, positions, start, stop, maps, filter_step, out, tap_step, adding = function.args
    taps = [
        offset_pointer(builder, images, builder.load(offset_pointer(builder, taps, int64(x)))) for x in range(columns)
    ]

    def operands(k):
        position = builder.load(offset_pointer(builder, positions, k))
        right = [load_vector(builder, vector, offset_pointer(builder, tap, position)) for tap in taps]
        row = offset_pointer(builder, maps, builder.mul(k, int64(vector.count)))
        left = [
            load_vector(builder, vector, offset_pointer(builder, row, builder.mul(filter_step, int64(f))))
            for f in range(filters)
        ]
        return left, right

    sums = _accumulate(builder, vector, filters, columns, start, stop, operands)
    for x in range(columns):
        column = offset_pointer(builder, out, builder.mul(tap_step, int64(x)))
        for first in range(0, filters, vector.count):
            rows = [row[x] for row in sums[first : first + vector.count]]
            while rows:
                size = 1 << (len(rows).bit_length() - 1)
                added = _add_lanes(builder, rows[:size])
                place = offset_pointer(builder, column, int64(first))
                before = load_vector(builder, added.type, place)
                before = builder.select(adding, before, ir.Constant(added.type, [0.0] * added.type.count))
                store_vector(builder, builder.fadd(before, added), place)
                rows, first = rows[size:], first + size
    builder.ret_void()
    return function


@intrinsic
def filter_grad_block(
    typing_context,
    filters,
    columns,
    images,
    images_at,
    taps,
    taps_at,
    positions,
    start,
    stop,
    maps,
    maps_at,
    filter_step,
    out,
    out_at,
    tap_step,
    adding,
):
    """A register block of a filter gradient, ``filters`` by ``columns`` taps::

        for x in range(columns):
            for f in range(filters):
                out[out_at + x * tap_step + f] += sum(
                    images[images_at + taps[taps_at + x] + positions[k]] * maps[maps_at + f * filter_step + k * lanes]
                    for k in range(start, stop)
                )

    where an element of ``images`` and ``maps`` is the first of a vector, and ``sum`` adds the lanes as well. What
    ``out`` held counts as zero unless it is ``adding``.
    """
    integer = types.intp
    signature = types.void(
        integer, integer, images, integer, taps, integer, positions, integer, integer,
        maps, integer, integer, out, integer, integer, types.boolean,
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        f, x, images, images_at, taps, taps_at, positions, start, stop, *rest = arguments
        maps, maps_at, filter_step, out, out_at, step, adding = rest
        data = {
            place: offset_pointer(builder, array_data(context, builder, signature.args[place], array), at)
            for place, array, at in (
                (2, images, images_at),
                (4, taps, taps_at),
                (6, positions, int64(0)),
                (9, maps, maps_at),
                (12, out, out_at),
            )
        }
        element = element_type(signature.args[2])
        _call_for_size(
            builder,
            f,
            x,
            lambda filters, columns: _filter_grad_function(builder.module, element, filters, columns),
            [data[2], data[4], data[6], start, stop, data[9], filter_step, data[12], step, adding],
        )
        return context.get_dummy_value()

    return signature, codegen
