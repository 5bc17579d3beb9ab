"""Vectors, written from Python as LLVM instructions through Numba's `intrinsic`.

A *vector* fills one register of the host: `VECTOR_BYTES` bytes, one *lane* for each element. All kernels keep one
image (or one tile of an image) in each lane, so there are only three things to say in LLVM: how numbers get from
images into lanes and how they get back, which is here, and the two multiply-accumulate loops in between, which are
in `register_blocks`.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

int1, int32, int64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _host_registers() -> tuple[int, int]:
    """Bytes in a vector register that Numba compiles for, and how many registers there are."""
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    enabled = features.split(",")
    if "+avx512f" in enabled:
        return 64, 32
    if "+avx" in enabled:
        return 32, 16
    x86 = binding.get_default_triple().startswith(("x86", "i686"))
    return 16, 16 if x86 else 32


VECTOR_BYTES, REGISTERS = _host_registers()


# ------------------------------------------------------------------------------------------ emitting LLVM


def vector_type(element):
    size = 8 if isinstance(element, ir.DoubleType) else 4
    return ir.VectorType(element, VECTOR_BYTES // size)


def element_type(array_type):
    return {32: ir.FloatType(), 64: ir.DoubleType()}[array_type.dtype.bitwidth]


def vector_suffix(vector):
    """How LLVM spells a vector type in the names of its intrinsics."""
    return f"v{vector.count}f{64 if isinstance(vector.element, ir.DoubleType) else 32}"


def array_data(context, builder, array_type, value):
    return context.make_array(array_type)(context, builder, value).data


def offset_pointer(builder, base, offset):
    return builder.gep(base, [offset])


def load_vector(builder, vector, pointer):
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)


def store_vector(builder, value, pointer):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, int32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(int32, vector.count), None))


def shuffle(builder, a, b, places):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(int32, len(places)), places))


def define_function(module, name, arguments):
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
                rows[i] = shuffle(builder, a, b, upper)
                rows[i + distance] = shuffle(builder, a, b, lower)
        distance *= 2
    return rows


def _between(builder, low, high, lanes):
    """The mask of lanes ``low <= lane < high``."""
    vector = ir.VectorType(int32, lanes)
    numbers = ir.Constant(vector, list(range(lanes)))
    low, high = (splat(builder, builder.trunc(bound, int32), vector) for bound in (low, high))
    return builder.and_(builder.icmp_signed(">=", numbers, low), builder.icmp_signed("<", numbers, high))


def _masked(module, kind, vector):
    """LLVM's masked ``load`` or ``store``."""
    mask, pointer = ir.VectorType(int1, vector.count), vector.as_pointer()
    name = f"llvm.masked.{kind}.{vector_suffix(vector)}.p0{vector_suffix(vector)}"
    if kind == "load":
        function_type = ir.FunctionType(vector, [pointer, int32, mask, vector])
    else:
        function_type = ir.FunctionType(ir.VoidType(), [vector, pointer, int32, mask])
    return cgutils.get_or_insert_function(module, function_type, name)


def fetch(builder, pointer):
    """Start to read the cache line of ``pointer``, which may be anywhere, into the second-level cache."""
    arguments = [pointer.type, int32, int32, int32]
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), arguments), "llvm.prefetch.p0"
    )
    builder.call(function, [pointer, int32(0), int32(2), int32(1)])


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
    masked_load = _masked(module, "load", vector)
    rows = []
    for lane in range(lanes):
        start, low, high = (
            builder.load(offset_pointer(builder, table, int64(lane))) for table in (starts, lows, highs)
        )
        place = offset_pointer(builder, source, start)
        fetch(builder, offset_pointer(builder, place, ahead))
        if masked:
            mask = _between(builder, builder.sub(low, first), builder.sub(high, first), lanes)
            pointer = builder.bitcast(place, vector.as_pointer())
            size = int32(element_bytes(element))
            rows.append(builder.call(masked_load, [pointer, size, mask, ir.Constant(vector, None)]))
        else:
            rows.append(load_vector(builder, vector, builder.bitcast(place, element.as_pointer())))
    done = builder.append_basic_block("done")
    for column, values in enumerate(_transpose(builder, rows)):
        store_vector(builder, values, offset_pointer(builder, packed, int64(column * lanes)))
        if masked:
            following = builder.append_basic_block("next")
            builder.cbranch(builder.icmp_signed("<=", count, int64(column + 1)), done, following)
            builder.position_at_end(following)
    builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()
    return function


def element_bytes(element):
    """Bytes of one number."""
    return 8 if isinstance(element, ir.DoubleType) else 4


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


def _turn_function(module, element):
    """The instructions of `turn_lanes`."""
    vector, pointer = vector_type(element), element.as_pointer()
    lanes = vector.count
    arguments = [pointer, pointer, int64]
    function, builder = define_function(module, f"pytensor_convnet.turn_{vector_suffix(vector)}", arguments)
    if builder is None:
        return function
    packed, target, step = function.args
    columns = [
        load_vector(builder, vector, offset_pointer(builder, packed, int64(column * lanes))) for column in range(lanes)
    ]
    for lane, values in enumerate(_transpose(builder, columns)):
        store_vector(builder, values, offset_pointer(builder, target, builder.mul(step, int64(lane))))
    builder.ret_void()
    return function


@intrinsic
def turn_lanes(typing_context, packed, packed_at, target, target_at, step):
    """Write as many vectors as there are lanes as a run of numbers for each lane::

    for column in range(lanes):
        for lane in range(lanes):
            target[target_at + lane * step + column] = packed[packed_at + column * lanes + lane]
    """
    integer = types.intp
    signature = types.void(packed, integer, target, integer, integer)

    def codegen(context, builder, signature, arguments):
        packed, packed_at, target, target_at, step = arguments
        packed = offset_pointer(builder, array_data(context, builder, signature.args[0], packed), packed_at)
        target = offset_pointer(builder, array_data(context, builder, signature.args[2], target), target_at)
        builder.call(_turn_function(builder.module, element_type(signature.args[0])), [packed, target, step])
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
    past = module.add_metadata([int32(1)])

    masked_store = _masked(module, "store", vector)

    masked_load, size = _masked(module, "load", vector), int32(element_bytes(element))

    def copy_few(start, stop):
        """Numbers ``start`` to ``stop``, fewer than lanes."""
        place, to = (
            builder.bitcast(offset_pointer(builder, array, start), vector.as_pointer()) for array in (source, target)
        )
        mask = _between(builder, int64(0), builder.sub(stop, start), lanes)
        values = builder.call(masked_load, [place, size, mask, ir.Constant(vector, None)])
        builder.call(masked_store, [values, to, size, mask])

    def copy_vectors(start, stop, align):
        with cgutils.for_range_slice(builder, start, stop, int64(lanes), int64, True) as (place, _):
            values = load_vector(builder, vector, offset_pointer(builder, source, place))
            to = builder.bitcast(offset_pointer(builder, target, place), vector.as_pointer())
            store = builder.store(values, to, align=align)
            if align == VECTOR_BYTES:
                store.set_metadata("nontemporal", past)

    def whole_vectors(start):
        return builder.sub(count, builder.srem(builder.sub(count, start), int64(lanes)))

    with builder.if_else(streaming) as (then, otherwise):
        with then:
            address = builder.ptrtoint(target, int64)
            until = builder.sdiv(builder.sub(int64(0), address), int64(element_bytes(element)))
            until = builder.and_(until, int64(lanes - 1))
            few = builder.icmp_signed("<", count, until)
            head = builder.select(few, count, until)
            copy_few(int64(0), head)
            stop = whole_vectors(head)
            copy_vectors(head, stop, VECTOR_BYTES)
            copy_few(stop, count)
        with otherwise:
            stop = whole_vectors(int64(0))
            copy_vectors(int64(0), stop, element_bytes(element))
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
            fetch(builder, offset_pointer(builder, data, place))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp), codegen


@intrinsic
def finish_streaming(typing_context):
    """Make what `copy_run` streamed visible to other threads."""

    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
