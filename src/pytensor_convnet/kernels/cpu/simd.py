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


def _gather_function(module, element):
    """The instructions of `gather_lanes`."""
    vector, bytes_pointer, integers = vector_type(element), ir.IntType(8).as_pointer(), int64.as_pointer()
    lanes = vector.count
    arguments = [bytes_pointer, integers, integers, integers, int64, element.as_pointer(), int64]
    function, builder = define_function(module, f"pytensor_convnet.gather_{vector_suffix(vector)}", arguments)
    if builder is None:
        return function
    source, starts, lows, highs, first, packed, count = function.args
    masked_load = _masked(module, "load", vector)
    rows = []
    for lane in range(lanes):
        start, low, high = (
            builder.load(offset_pointer(builder, table, int64(lane))) for table in (starts, lows, highs)
        )
        mask = _between(builder, builder.sub(low, first), builder.sub(high, first), lanes)
        pointer = builder.bitcast(offset_pointer(builder, source, start), vector.as_pointer())
        rows.append(
            builder.call(masked_load, [pointer, int32(element_bytes(element)), mask, ir.Constant(vector, None)])
        )
    done = builder.append_basic_block("done")
    for column, values in enumerate(_transpose(builder, rows)):
        store_vector(builder, values, offset_pointer(builder, packed, int64(column * lanes)))
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
        data = array_data(context, builder, types_[0], source)
        data = offset_pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), shift)
        tables = [
            array_data(context, builder, type_, table) for type_, table in zip(types_[2:5], (starts, lows, highs))
        ]
        packed = offset_pointer(builder, array_data(context, builder, types_[6], packed), packed_at)
        function = _gather_function(builder.module, element_type(types_[0]))
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


def _scatter_function(module, element):
    """The instructions of `scatter_lanes`."""
    vector, bytes_pointer, integers = vector_type(element), ir.IntType(8).as_pointer(), int64.as_pointer()
    lanes = vector.count
    arguments = [element.as_pointer(), bytes_pointer, integers, integers, int64]
    function, builder = define_function(module, f"pytensor_convnet.scatter_{vector_suffix(vector)}", arguments)
    if builder is None:
        return function
    packed, target, starts, highs, first = function.args
    masked_store = _masked(module, "store", vector)
    columns = [
        load_vector(builder, vector, offset_pointer(builder, packed, int64(column * lanes))) for column in range(lanes)
    ]
    for lane, values in enumerate(_transpose(builder, columns)):
        start, high = (builder.load(offset_pointer(builder, table, int64(lane))) for table in (starts, highs))
        mask = _between(builder, int64(0), builder.sub(high, first), lanes)
        pointer = builder.bitcast(offset_pointer(builder, target, start), vector.as_pointer())
        builder.call(masked_store, [values, pointer, int32(element_bytes(element)), mask])
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
        data = array_data(context, builder, types_[2], target)
        data = offset_pointer(builder, builder.bitcast(data, ir.IntType(8).as_pointer()), shift)
        packed = offset_pointer(builder, array_data(context, builder, types_[0], packed), packed_at)
        tables = [array_data(context, builder, type_, table) for type_, table in zip(types_[4:6], (starts, highs))]
        function = _scatter_function(builder.module, element_type(types_[0]))
        builder.call(function, [packed, data, *tables, first])
        return context.get_dummy_value()

    return signature, codegen
