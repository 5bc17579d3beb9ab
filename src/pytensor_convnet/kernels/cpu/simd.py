"""Vector instructions for kernels, written from Python as LLVM instructions through Numba's `intrinsic`.

A *vector* fills one register of the host: `VECTOR_BYTES` bytes, one *lane* for each element. All kernels keep
one image (or one tile of an image) in each lane, so there are only three things to say in LLVM: how numbers
get from images into lanes, how they get back, and the two multiply-accumulate loops in between.

The loops exist in many sizes, because their accumulators must be registers: one function for each number of
filters and columns that fits. `MOST_FILTERS` and `MOST_COLUMNS` say which sizes those are.
"""

import os

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

_int1, _int32, _int64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _host_registers() -> tuple[int, int]:
    """Bytes in a vector register of the host, and how many registers there are."""
    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = config.CPU_FEATURES or binding.get_host_cpu_features().flatten()
    enabled = set(features.split(",")) if name != "generic" else set()
    if "+avx512f" in enabled:
        return 64, 32
    if "+avx" in enabled:
        return 32, 16
    x86 = binding.get_default_triple().startswith(("x86", "i686"))
    return 16, 16 if x86 else 32


VECTOR_BYTES, _REGISTERS = _host_registers()

MOST_FILTERS = 8 if _REGISTERS == 32 else 4
"""Filters of the largest register block. A block has a power of two of them, so that few sizes need compiling."""

MOST_COLUMNS = tuple(min(8, (_REGISTERS - 1) // (filters + 1)) for filters in range(MOST_FILTERS + 1))
"""For each number of filters, the columns of its largest block: accumulators, one vector a column, one spare."""


# ------------------------------------------------------------------------------------------ emitting LLVM


def _vector(element):
    size = 8 if isinstance(element, ir.DoubleType) else 4
    return ir.VectorType(element, VECTOR_BYTES // size)


def _element(array_type):
    return {32: ir.FloatType(), 64: ir.DoubleType()}[array_type.dtype.bitwidth]


def _suffix(vector):
    """How LLVM spells a vector type in the names of its intrinsics."""
    return f"v{vector.count}f{64 if isinstance(vector.element, ir.DoubleType) else 32}"


def _data(context, builder, array_type, value):
    return context.make_array(array_type)(context, builder, value).data


def _pointer(builder, base, offset):
    return builder.gep(base, [offset])


def _load(builder, vector, pointer):
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)


def _store(builder, value, pointer):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _int32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_int32, vector.count), None))


def _shuffle(builder, a, b, places):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_int32, len(places)), places))


def _function(module, name, arguments):
    """The function ``name`` of the module, and a builder at its start unless it was defined before.

    Never inlined, so that each loop gets all registers to itself.
    """
    known = module.globals.get(name)
    if known is not None:
        return known, None
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _call_for_size(builder, filters, columns, function_for, arguments):
    """Call ``function_for(f, x)``, where f and x are the run-time values ``filters`` and ``columns``."""
    done = builder.append_basic_block("done")
    size = builder.add(builder.mul(filters, _int64(16)), columns)
    choice = builder.switch(size, done)
    for f in (size for size in (1, 2, 4, 8) if size <= MOST_FILTERS):
        for x in range(1, MOST_COLUMNS[f] + 1):
            block = builder.append_basic_block(f"size_{f}_{x}")
            choice.add_case(_int64(16 * f + x), block)
            with builder.goto_block(block):
                builder.call(function_for(f, x), arguments)
                builder.branch(done)
    builder.position_at_end(done)


def _accumulate(builder, vector, filters, columns, start, stop, operands):
    """Emit ``for k in range(start, stop): sums[f][x] += left[f] * right[x]``; return the sums.

    ``operands(k)`` emits the loads of a step and returns ``left`` and ``right``. `fmuladd` is one instruction
    where the host has it.
    """
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{_suffix(vector)}"
    )
    zero = ir.Constant(vector, None)
    before = builder.block
    loop, end = builder.append_basic_block("loop"), builder.append_basic_block("end")
    builder.cbranch(builder.icmp_signed("<", start, stop), loop, end)

    builder.position_at_end(loop)
    k = builder.phi(_int64)
    k.add_incoming(start, before)
    sums = [[builder.phi(vector) for _ in range(columns)] for _ in range(filters)]
    left, right = operands(k)
    following = builder.add(k, _int64(1))
    k.add_incoming(following, loop)
    totals = []
    for f in range(filters):
        for x in range(columns):
            total = builder.call(multiply_add, [left[f], right[x], sums[f][x]])
            sums[f][x].add_incoming(zero, before)
            sums[f][x].add_incoming(total, loop)
            totals.append(total)
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, end)

    builder.position_at_end(end)
    results = []
    for total in totals:
        result = builder.phi(vector)
        result.add_incoming(zero, before)
        result.add_incoming(total, loop)
        results.append(result)
    return [results[f * columns : (f + 1) * columns] for f in range(filters)]


# ----------------------------------------------------------------------------- the loop of a correlation


def _correlation_function(module, element, filters, columns):
    """The loop of `correlate_block` for one size of block."""
    vector, pointer = _vector(element), element.as_pointer()
    name = f"pytensor_convnet.correlate_{_suffix(vector)}_{filters}x{columns}"
    arguments = [pointer, _int64.as_pointer(), _int64, _int64, pointer, pointer, _int64, _int64]
    function, builder = _function(module, name, arguments)
    if builder is None:
        return function
    images, offsets, count, column_step, weights, out, filter_step, out_step = function.args

    def operands(k):
        first = _pointer(builder, images, builder.load(_pointer(builder, offsets, k)))
        right = [
            _load(builder, vector, _pointer(builder, first, builder.mul(column_step, _int64(x))))
            for x in range(columns)
        ]
        row = _pointer(builder, weights, builder.mul(k, _int64(filters)))
        left = [_splat(builder, builder.load(_pointer(builder, row, _int64(f))), vector) for f in range(filters)]
        return left, right

    sums = _accumulate(builder, vector, filters, columns, _int64(0), count, operands)
    for f in range(filters):
        row = _pointer(builder, out, builder.mul(filter_step, _int64(f)))
        for x in range(columns):
            _store(builder, sums[f][x], _pointer(builder, row, builder.mul(out_step, _int64(x))))
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
):
    """A register block of a correlation, ``filters`` by ``columns`` vectors::

        for f in range(filters):
            for x in range(columns):
                out[out_at + f * filter_step + x * out_step] = sum(
                    images[images_at + offsets[offsets_at + k] + x * column_step]
                    * weights[weights_at + k * filters + f]
                    for k in range(count)
                )

    where an element of ``images`` and ``out`` is the first of a vector, and one of ``weights`` a scalar.
    """
    integer = types.intp
    signature = types.void(
        integer, integer, images, integer, offsets, integer, integer, integer,
        weights, integer, out, integer, integer, integer,
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        f, x, images, images_at, offsets, offsets_at, count, step, weights, weights_at, out, out_at, *steps = arguments
        data = {
            place: _pointer(builder, _data(context, builder, signature.args[place], array), start)
            for place, array, start in (
                (2, images, images_at),
                (4, offsets, offsets_at),
                (8, weights, weights_at),
                (10, out, out_at),
            )
        }
        element = _element(signature.args[2])
        _call_for_size(
            builder,
            f,
            x,
            lambda filters, columns: _correlation_function(builder.module, element, filters, columns),
            [data[2], data[4], count, step, data[8], data[10], *steps],
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
            builder.fadd(_shuffle(builder, a, b, evens), _shuffle(builder, a, b, odds))
            for a, b in zip(vectors[::2], vectors[1::2])
        ]
    (total,) = vectors
    while total.type.count > count:
        evens, odds = list(range(0, total.type.count, 2)), list(range(1, total.type.count, 2))
        total = builder.fadd(_shuffle(builder, total, total, evens), _shuffle(builder, total, total, odds))
    return total


def _filter_grad_function(module, element, filters, columns):
    """The loop of `filter_grad_block` for one size of block."""
    vector, pointer = _vector(element), element.as_pointer()
    name = f"pytensor_convnet.filter_grad_{_suffix(vector)}_{filters}x{columns}"
    integers = _int64.as_pointer()
    arguments = [pointer, integers, integers, _int64, _int64, pointer, _int64, pointer, _int64]
    function, builder = _function(module, name, arguments)
    if builder is None:
        return function
    images, taps, positions, start, stop, maps, filter_step, out, tap_step = function.args
    taps = [_pointer(builder, images, builder.load(_pointer(builder, taps, _int64(x)))) for x in range(columns)]

    def operands(k):
        position = builder.load(_pointer(builder, positions, k))
        right = [_load(builder, vector, _pointer(builder, tap, position)) for tap in taps]
        row = _pointer(builder, maps, builder.mul(k, _int64(vector.count)))
        left = [
            _load(builder, vector, _pointer(builder, row, builder.mul(filter_step, _int64(f)))) for f in range(filters)
        ]
        return left, right

    sums = _accumulate(builder, vector, filters, columns, start, stop, operands)
    for x in range(columns):
        column = _pointer(builder, out, builder.mul(tap_step, _int64(x)))
        for first in range(0, filters, vector.count):
            added = _add_lanes(builder, [row[x] for row in sums[first : first + vector.count]])
            place = _pointer(builder, column, _int64(first))
            _store(builder, builder.fadd(_load(builder, added.type, place), added), place)
    builder.ret_void()
    return function


@intrinsic
def filter_grad_block(
    typing_context,
    filters,
    columns,
    images,
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
):
    """A register block of a filter gradient, ``filters`` by ``columns`` taps::

        for x in range(columns):
            for f in range(filters):
                out[out_at + x * tap_step + f] += sum(
                    images[taps[taps_at + x] + positions[k]] * maps[maps_at + f * filter_step + k * lanes]
                    for k in range(start, stop)
                )

    where an element of ``images`` and ``maps`` is the first of a vector, and ``sum`` adds the lanes as well.
    """
    integer = types.intp
    signature = types.void(
        integer, integer, images, taps, integer, positions, integer, integer,
        maps, integer, integer, out, integer, integer,
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        f, x, images, taps, taps_at, positions, start, stop, maps, maps_at, filter_step, out, out_at, step = arguments
        zero = _int64(0)
        data = {
            place: _pointer(builder, _data(context, builder, signature.args[place], array), at)
            for place, array, at in (
                (2, images, zero),
                (3, taps, taps_at),
                (5, positions, zero),
                (8, maps, maps_at),
                (11, out, out_at),
            )
        }
        element = _element(signature.args[2])
        _call_for_size(
            builder,
            f,
            x,
            lambda filters, columns: _filter_grad_function(builder.module, element, filters, columns),
            [data[2], data[3], data[5], start, stop, data[8], filter_step, data[11], step],
        )
        return context.get_dummy_value()

    return signature, codegen


# --------------------------------------------------------------------------- between images and lanes


def _transpose(builder, rows):
    """Transpose a square of vectors: in round ``distance``, exchange the two off-diagonal corners of each
    square of 2 x ``distance`` rows and columns."""
    rows, lanes = list(rows), len(rows)
    distance = 1
    while distance < lanes:
        upper = [c + lanes - distance if c & distance else c for c in range(lanes)]
        lower = [c + lanes if c & distance else c + distance for c in range(lanes)]
        for i in range(lanes):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i] = _shuffle(builder, a, b, upper)
                rows[i + distance] = _shuffle(builder, a, b, lower)
        distance *= 2
    return rows


def _between(builder, low, high, lanes):
    """The mask of lanes ``low <= lane < high``."""
    vector = ir.VectorType(_int32, lanes)
    numbers = ir.Constant(vector, list(range(lanes)))
    low, high = (_splat(builder, builder.trunc(bound, _int32), vector) for bound in (low, high))
    return builder.and_(builder.icmp_signed(">=", numbers, low), builder.icmp_signed("<", numbers, high))


def _masked(module, kind, vector):
    """LLVM's masked ``load`` or ``store``."""
    mask, pointer = ir.VectorType(_int1, vector.count), vector.as_pointer()
    name = f"llvm.masked.{kind}.{_suffix(vector)}.p0{_suffix(vector)}"
    if kind == "load":
        function_type = ir.FunctionType(vector, [pointer, _int32, mask, vector])
    else:
        function_type = ir.FunctionType(ir.VoidType(), [vector, pointer, _int32, mask])
    return cgutils.get_or_insert_function(module, function_type, name)


def _gather_function(module, element):
    """The instructions of `gather_lanes`."""
    vector, bytes_pointer, integers = _vector(element), ir.IntType(8).as_pointer(), _int64.as_pointer()
    lanes = vector.count
    arguments = [bytes_pointer, integers, integers, integers, _int64, element.as_pointer(), _int64]
    function, builder = _function(module, f"pytensor_convnet.gather_{_suffix(vector)}", arguments)
    if builder is None:
        return function
    source, starts, lows, highs, first, packed, count = function.args
    masked_load = _masked(module, "load", vector)
    rows = []
    for lane in range(lanes):
        start, low, high = (builder.load(_pointer(builder, table, _int64(lane))) for table in (starts, lows, highs))
        mask = _between(builder, builder.sub(low, first), builder.sub(high, first), lanes)
        pointer = builder.bitcast(_pointer(builder, source, start), vector.as_pointer())
        rows.append(
            builder.call(masked_load, [pointer, _int32(element_bytes(element)), mask, ir.Constant(vector, None)])
        )
    done = builder.append_basic_block("done")
    for column, values in enumerate(_transpose(builder, rows)):
        _store(builder, values, _pointer(builder, packed, _int64(column * lanes)))
        following = builder.append_basic_block("next")
        builder.cbranch(builder.icmp_signed("<=", count, _int64(column + 1)), done, following)
        builder.position_at_end(following)
    builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()
    return function


def element_bytes(element):
    """Bytes of one number."""
    return 8 if isinstance(element, ir.DoubleType) else 4


@intrinsic
def gather_lanes(typing_context, source, shift, starts, lows, highs, first, packed, packed_at, count):
    """Read a run of columns from each lane's image and write them as vectors::

        for column in range(first, first + count):
            for lane in range(lanes):
                inside = lows[lane] <= column < highs[lane]
                byte = shift + starts[lane] + (column - first) * itemsize
                packed[packed_at + (column - first) * lanes + lane] = source[byte] if inside else 0

    ``count`` is at least 1, and at most the number of lanes.
    """
    integer = types.intp
    signature = types.void(source, integer, starts, lows, highs, integer, packed, integer, integer)

    def codegen(context, builder, signature, arguments):
        source, shift, starts, lows, highs, first, packed, packed_at, count = arguments
        types_ = signature.args
        data = _data(context, builder, types_[0], source)
        data = _pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), shift)
        tables = [_data(context, builder, type_, table) for type_, table in zip(types_[2:5], (starts, lows, highs))]
        packed = _pointer(builder, _data(context, builder, types_[6], packed), packed_at)
        function = _gather_function(builder.module, _element(types_[0]))
        builder.call(function, [data, *tables, first, packed, count])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_vectors(typing_context, source, start, step, packed, packed_at, count):
    """Read ``count`` vectors, ``step`` bytes apart, where the lanes' images are neighbours in memory (c01b)::

    for i in range(count):
        for lane in range(lanes):
            packed[packed_at + i * lanes + lane] = source[start + i * step + lane * itemsize]
    """
    integer = types.intp
    signature = types.void(source, integer, integer, packed, integer, integer)

    def codegen(context, builder, signature, arguments):
        source, start, step, packed, packed_at, count = arguments
        vector = _vector(_element(signature.args[0]))
        data = _data(context, builder, signature.args[0], source)
        data = _pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), start)
        packed = _pointer(builder, _data(context, builder, signature.args[3], packed), packed_at)
        with cgutils.for_range(builder, count) as loop:
            values = _load(builder, vector, _pointer(builder, data, builder.mul(loop.index, step)))
            place = builder.mul(loop.index, _int64(vector.count))
            _store(builder, values, _pointer(builder, packed, place))
        return context.get_dummy_value()

    return signature, codegen


def _scatter_function(module, element):
    """The instructions of `scatter_lanes`."""
    vector, bytes_pointer, integers = _vector(element), ir.IntType(8).as_pointer(), _int64.as_pointer()
    lanes = vector.count
    arguments = [element.as_pointer(), bytes_pointer, integers, integers, _int64]
    function, builder = _function(module, f"pytensor_convnet.scatter_{_suffix(vector)}", arguments)
    if builder is None:
        return function
    packed, target, starts, highs, first = function.args
    masked_store = _masked(module, "store", vector)
    columns = [_load(builder, vector, _pointer(builder, packed, _int64(column * lanes))) for column in range(lanes)]
    for lane, values in enumerate(_transpose(builder, columns)):
        start, high = (builder.load(_pointer(builder, table, _int64(lane))) for table in (starts, highs))
        mask = _between(builder, _int64(0), builder.sub(high, first), lanes)
        pointer = builder.bitcast(_pointer(builder, target, start), vector.as_pointer())
        builder.call(masked_store, [values, pointer, _int32(element_bytes(element)), mask])
    builder.ret_void()
    return function


@intrinsic
def scatter_lanes(typing_context, packed, packed_at, target, shift, starts, highs, first):
    """Write vectors as a run of columns to each lane's image, the reverse of `gather_lanes`::

    for column in range(first, first + lanes):
        for lane in range(lanes):
            if column < highs[lane]:
                byte = shift + starts[lane] + (column - first) * itemsize
                target[byte] = packed[packed_at + (column - first) * lanes + lane]
    """
    integer = types.intp
    signature = types.void(packed, integer, target, integer, starts, highs, integer)

    def codegen(context, builder, signature, arguments):
        packed, packed_at, target, shift, starts, highs, first = arguments
        types_ = signature.args
        data = _data(context, builder, types_[2], target)
        data = _pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), shift)
        packed = _pointer(builder, _data(context, builder, types_[0], packed), packed_at)
        tables = [_data(context, builder, type_, table) for type_, table in zip(types_[4:6], (starts, highs))]
        function = _scatter_function(builder.module, _element(types_[0]))
        builder.call(function, [packed, data, *tables, first])
        return context.get_dummy_value()

    return signature, codegen
