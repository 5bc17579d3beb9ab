"""From images to lanes and back, written from Python as LLVM instructions through Numba's `intrinsic`.

All kernels of convolutions keep one image (or one tile of an image) in each lane, so there are only three things to
say in LLVM: how numbers get from images into lanes and how they get back, which is here, and the two
multiply-accumulate loops in between, which are in `register_blocks`.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.llvm import (
    array_data,
    define_function,
    element_type,
    fetch,
    int1,
    int32,
    int64,
    item_bytes,
    load_vector,
    masked_access,
    offset_pointer,
    splat,
    store_vector,
    stream_vector,
    transpose,
    vector_suffix,
    vector_type,
)


def _between(builder, low, high, lanes):
    """The mask of lanes ``low <= lane < high``."""
    vector = ir.VectorType(int32, lanes)
    numbers = ir.Constant(vector, list(range(lanes)))
    low, high = (splat(builder, builder.trunc(bound, int32), vector) for bound in (low, high))
    return builder.and_(builder.icmp_signed(">=", numbers, low), builder.icmp_signed("<", numbers, high))


def _gather_function(module, element, masked):
    """The instructions of `gather_lanes`, for a square of columns by lanes that is wholly inside, or for any."""
    vector, bytes_pointer, integers = vector_type(element), ir.IntType(8).as_pointer(), int64.as_pointer()
    lanes = vector.count
    arguments = [bytes_pointer, integers, integers, integers, int64, element.as_pointer(), int64, int64]
    name = f"pytensor_convnet.gather_{'some' if masked else 'all'}_{vector_suffix(vector)}"
    function, builder = define_function(module, name, arguments)
    if builder is None:
        return function
    source, starts, lows, highs, first, packed, count, ahead = function.args
    masked_load = masked_access(builder.module, "load", vector)
    rows = []
    for lane in range(lanes):
        start, low, high = (
            builder.load(offset_pointer(builder, table, int64(lane))) for table in (starts, lows, highs)
        )
        place = offset_pointer(builder, source, start)
        fetch(builder, offset_pointer(builder, place, ahead), 2)
        if masked:
            mask = _between(builder, builder.sub(low, first), builder.sub(high, first), lanes)
            pointer = builder.bitcast(place, vector.as_pointer())
            size = int32(item_bytes(element))
            rows.append(builder.call(masked_load, [pointer, size, mask, ir.Constant(vector, None)]))
        else:
            rows.append(load_vector(builder, vector, builder.bitcast(place, element.as_pointer())))
    done = builder.append_basic_block("done")
    for column, values in enumerate(transpose(builder, rows)):
        store_vector(builder, values, offset_pointer(builder, packed, int64(column * lanes)))
        if masked:
            following = builder.append_basic_block("next")
            builder.cbranch(builder.icmp_signed("<=", count, int64(column + 1)), done, following)
            builder.position_at_end(following)
    builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()
    return function


@intrinsic
def gather_lanes(
    typing_context, source, shift, starts, lows, highs, table, first, packed, packed_at, count, inside, ahead
):
    """Read a run of columns from each lane's image and write them as vectors::

        for column in range(first, first + count):
            for lane in range(lanes):
                inside = lows[table + lane] <= column < highs[table + lane]
                byte = shift + starts[table + lane] + (column - first) * itemsize
                packed[packed_at + (column - first) * lanes + lane] = source[byte] if inside else 0

    ``count`` is at least 1, and at most the number of lanes. ``inside`` promises that it is that, and that all is
    inside. What lies ``ahead`` bytes further on is fetched into the second-level cache: the processor does not foresee
    so many short runs.
    """
    integer = types.intp
    signature = types.void(
        source, integer, starts, lows, highs, integer, integer, packed, integer, integer, types.boolean, integer
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        source, shift, starts, lows, highs, table, first, packed, packed_at, count, inside, ahead = arguments
        types_ = signature.args
        data = array_data(context, builder, types_[0], source)
        data = offset_pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), shift)
        tables = [
            offset_pointer(builder, array_data(context, builder, type_, values), table)
            for type_, values in zip(types_[2:5], (starts, lows, highs))
        ]
        packed = offset_pointer(builder, array_data(context, builder, types_[7], packed), packed_at)
        arguments = [data, *tables, first, packed, count, ahead]
        with builder.if_else(inside) as (then, otherwise):
            for block, masked in ((then, False), (otherwise, True)):
                with block:
                    builder.call(_gather_function(builder.module, element_type(types_[0]), masked), arguments)
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
        vector = vector_type(element_type(signature.args[0]))
        data = array_data(context, builder, signature.args[0], source)
        data = offset_pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), start)
        packed = offset_pointer(builder, array_data(context, builder, signature.args[3], packed), packed_at)
        with cgutils.for_range(builder, count) as loop:
            values = load_vector(builder, vector, offset_pointer(builder, data, builder.mul(loop.index, step)))
            place = builder.mul(loop.index, int64(vector.count))
            store_vector(builder, values, offset_pointer(builder, packed, place))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def numbers_to_lanes(typing_context, source, shift, step, starts, lows, highs, table, packed, packed_at, first, last):
    """Read columns that are ``step`` bytes apart, number by number::

    for lane in range(lanes):
        for column in range(first, last):
            inside = lows[table + lane] <= column < highs[table + lane]
            byte = shift + starts[table + lane] + column * step
            packed[packed_at + column * lanes + lane] = source[byte] if inside else 0
    """
    integer = types.intp
    signature = types.void(
        source, integer, integer, starts, lows, highs, integer, packed, integer, integer, integer
    )  # fmt: skip

    def codegen(context, builder, signature, arguments):
        source, shift, step, starts, lows, highs, table, packed, packed_at, first, last = arguments
        types_ = signature.args
        element = element_type(types_[0])
        lanes = vector_type(element).count
        data = array_data(context, builder, types_[0], source)
        data = offset_pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), shift)
        packed = offset_pointer(builder, array_data(context, builder, types_[7], packed), packed_at)
        tables = [
            offset_pointer(builder, array_data(context, builder, type_, values), table)
            for type_, values in zip(types_[3:6], (starts, lows, highs))
        ]
        with cgutils.for_range(builder, int64(lanes)) as lane:
            start, low, high = (builder.load(offset_pointer(builder, table, lane.index)) for table in tables)
            with cgutils.for_range(builder, last, start=first) as column:
                place = builder.add(builder.mul(column.index, int64(lanes)), lane.index)
                place = offset_pointer(builder, packed, place)
                builder.store(ir.Constant(element, 0.0), place)
                above = builder.icmp_signed("<=", low, column.index)
                inside = builder.and_(above, builder.icmp_signed("<", column.index, high))
                with builder.if_then(inside):
                    byte = builder.add(start, builder.mul(column.index, step))
                    number = builder.bitcast(offset_pointer(builder, data, byte), element.as_pointer())
                    builder.store(builder.load(number), place)
        return context.get_dummy_value()

    return signature, codegen


def _turn_function(module, element, streaming):
    """The instructions of `turn_lanes`."""
    vector, pointer = vector_type(element), element.as_pointer()
    lanes = vector.count
    arguments = [pointer, pointer, int64]
    name = f"pytensor_convnet.{'stream' if streaming else 'turn'}_{vector_suffix(vector)}"
    function, builder = define_function(module, name, arguments)
    if builder is None:
        return function
    packed, target, step = function.args
    columns = [
        load_vector(builder, vector, offset_pointer(builder, packed, int64(column * lanes))) for column in range(lanes)
    ]
    for lane, values in enumerate(transpose(builder, columns)):
        place = offset_pointer(builder, target, builder.mul(step, int64(lane)))
        if streaming:
            stream_vector(builder, values, place)
        else:
            store_vector(builder, values, place)
    builder.ret_void()
    return function


@intrinsic
def turn_lanes(typing_context, packed, packed_at, target, target_at, step, streaming):
    """Write as many vectors as there are lanes as a run of numbers for each lane::

    for column in range(lanes):
        for lane in range(lanes):
            target[target_at + lane * step + column] = packed[packed_at + column * lanes + lane]

    ``streaming`` is that of `copy_run`, for runs that are whole cache lines.
    """
    integer = types.intp
    signature = types.void(packed, integer, target, integer, integer, types.boolean)

    def codegen(context, builder, signature, arguments):
        packed, packed_at, target, target_at, step, streaming = arguments
        packed = offset_pointer(builder, array_data(context, builder, signature.args[0], packed), packed_at)
        target = offset_pointer(builder, array_data(context, builder, signature.args[2], target), target_at)
        element = element_type(signature.args[0])
        with builder.if_else(streaming) as branches:
            for branch, past in zip(branches, (True, False)):
                with branch:
                    builder.call(_turn_function(builder.module, element, past), [packed, target, step])
        return context.get_dummy_value()

    return signature, codegen


def _copy_function(module, element):
    """The instructions of `copy_run`."""
    vector, pointer = vector_type(element), element.as_pointer()
    lanes = vector.count
    arguments = [pointer, pointer, int64, int1]
    function, builder = define_function(module, f"pytensor_convnet.copy_run_{vector_suffix(vector)}", arguments)
    if builder is None:
        return function
    source, target, count, streaming = function.args

    def copy_few(start, stop):
        """Numbers ``start`` to ``stop``, fewer than lanes, one by one: a masked store takes Zen 4 some 200 cycles."""
        with cgutils.for_range_slice(builder, start, stop, int64(1), int64, True) as (place, _):
            number = builder.load(offset_pointer(builder, source, place))
            builder.store(number, offset_pointer(builder, target, place))

    def copy_vectors(start, stop, streamed):
        with cgutils.for_range_slice(builder, start, stop, int64(lanes), int64, True) as (place, _):
            values = load_vector(builder, vector, offset_pointer(builder, source, place))
            to = offset_pointer(builder, target, place)
            if streamed:
                stream_vector(builder, values, to)
            else:
                store_vector(builder, values, to)

    def whole_vectors(start):
        return builder.sub(count, builder.srem(builder.sub(count, start), int64(lanes)))

    with builder.if_else(streaming) as (then, otherwise):
        with then:
            address = builder.ptrtoint(target, int64)
            until = builder.sdiv(builder.sub(int64(0), address), int64(item_bytes(element)))
            until = builder.and_(until, int64(lanes - 1))
            few = builder.icmp_signed("<", count, until)
            head = builder.select(few, count, until)
            copy_few(int64(0), head)
            stop = whole_vectors(head)
            copy_vectors(head, stop, True)
            copy_few(stop, count)
        with otherwise:
            stop = whole_vectors(int64(0))
            copy_vectors(int64(0), stop, False)
            copy_few(stop, count)
    builder.ret_void()
    return function


@intrinsic
def copy_run(typing_context, source, source_byte, target, target_byte, count, streaming):
    """Copy ``count`` numbers from so many bytes into ``source`` to so many bytes into ``target``.

    ``streaming`` writes past the caches: for memory that will not be read before it has left them anyway, this saves
    reading what is overwritten. `finish_streaming` must follow before another thread reads it.
    """
    integer = types.intp
    signature = types.void(source, integer, target, integer, integer, types.boolean)

    def codegen(context, builder, signature, arguments):
        source, source_byte, target, target_byte, count, streaming = arguments
        element = element_type(signature.args[0])
        places = []
        for type_, array, byte in ((signature.args[0], source, source_byte), (signature.args[2], target, target_byte)):
            data = builder.bitcast(array_data(context, builder, type_, array), ir.IntType(8).as_pointer())
            places.append(builder.bitcast(offset_pointer(builder, data, byte), element.as_pointer()))
        builder.call(_copy_function(builder.module, element), [*places, count, streaming])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fetch_run(typing_context, source, byte, count):
    """Start to read ``count`` bytes, so many bytes into ``source``, into the second-level cache."""

    def codegen(context, builder, signature, arguments):
        source, byte, count = arguments
        data = builder.bitcast(array_data(context, builder, signature.args[0], source), ir.IntType(8).as_pointer())
        data = offset_pointer(builder, data, byte)
        with cgutils.for_range_slice(builder, int64(0), count, int64(64), int64, True) as (place, _):
            fetch(builder, offset_pointer(builder, data, place), 2)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp), codegen


@intrinsic
def finish_streaming(typing_context):
    """Make what `copy_run` streamed visible to other threads."""

    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
