"""Vectors of numbers as LLVM types and instructions: what everything that is emitted here is written with.

A *vector* fills one register of the host: `VECTOR_BYTES` bytes, one *lane* for each number.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features

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

MASKS = VECTOR_BYTES > 16
"""Whether some lanes of a vector are loaded as fast as all."""

MASK_REGISTERS = VECTOR_BYTES > 32
"""Whether masks have registers of their own. Then some lanes of a vector are stored as fast as all, which takes AVX2 12
cycles, and one mask serves lanes of any width."""


def _host_multiply_adds() -> int:
    """Vectors that the host multiplies and adds in a cycle; Zen 4 takes a long one in two halves."""
    name = config.CPU_NAME or binding.get_host_cpu_name()
    return 1 if name == "znver4" and VECTOR_BYTES == 64 else 2


MULTIPLY_ADDS = _host_multiply_adds()


def vector_type(element):
    """The vector of such floats that fills a register."""
    return ir.VectorType(element, VECTOR_BYTES // item_bytes(element))


def element_type(array_type):
    return {32: ir.FloatType(), 64: ir.DoubleType()}[array_type.dtype.bitwidth]


def bytes_of(dtype) -> int:
    """Bytes of a number or a truth in an array of such a dtype (as Numba's type)."""
    return 1 if dtype == types.boolean else dtype.bitwidth // 8


def is_float(type_) -> bool:
    """Whether a type, or that of a vector's numbers, is a float."""
    return isinstance(getattr(type_, "element", type_), (ir.FloatType, ir.DoubleType))


def bits(type_) -> int:
    """Bits of a number, or of one number of a vector."""
    element = getattr(type_, "element", type_)
    return element.width if isinstance(element, ir.IntType) else 64 if isinstance(element, ir.DoubleType) else 32


def item_bytes(type_) -> int:
    """Bytes of a number, or of one number of a vector."""
    return bits(type_) // 8


def vector_suffix(vector):
    """How LLVM spells a vector type in the names of its intrinsics."""
    return f"v{vector.count}{'f' if is_float(vector) else 'i'}{bits(vector)}"


def array_data(context, builder, array_type, value):
    return builder.extract_value(value, context.data_model_manager[array_type].get_field_position("data"))


def new_place(builder, type_):
    """Where a value is kept, of which LLVM makes a register; what is there at first is undefined."""
    with builder.goto_entry_block():
        return builder.alloca(type_)


def offset_pointer(builder, base, offset):
    return builder.gep(base, [offset])


def load_vector(builder, vector, pointer):
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)


def store_vector(builder, value, pointer):
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def stream_vector(builder, value, pointer):
    """Store a vector that is a whole cache line, or an aligned part of one, past the caches."""
    store = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=VECTOR_BYTES)
    store.set_metadata("nontemporal", builder.module.add_metadata([int32(1)]))


def splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, int32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(int32, vector.count), None))


def shuffle(builder, a, b, places):
    """The lanes at ``places`` of two vectors, laid end to end."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(int32, len(places)), [int32(x) for x in places]))


shared: dict[str, ir.Module] = {}
"""What `define_function` defined apart from those who call it, by name."""


def define_function(module, name, arguments, returned=None):
    """The function ``name`` for a module, and a builder at its start unless it was defined before.

    Never inlined, so that each loop gets all registers to itself. So it is defined apart, once for all kernels, if the
    module has a set of names of such in ``apart`` (see `linking`).
    """
    known = module.globals.get(name)
    if known is not None:
        return known, None
    function_type = ir.FunctionType(returned or ir.VoidType(), arguments)
    if hasattr(module, "apart"):
        module.apart.add(name)
        declared = ir.Function(module, function_type, name)
        if name in shared:
            return declared, None
        shared[name] = ir.Module(name)
        shared[name].triple = module.triple
        module = shared[name]
    function = ir.Function(module, function_type, name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def transpose(builder, rows):
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


def masked_access(module, kind, vector):
    """LLVM's ``load`` or ``store`` of the lanes that a mask names."""
    mask, pointer = ir.VectorType(int1, vector.count), vector.as_pointer()
    name = f"llvm.masked.{kind}.{vector_suffix(vector)}.p0{vector_suffix(vector)}"
    if kind == "load":
        function_type = ir.FunctionType(vector, [pointer, int32, mask, vector])
    else:
        function_type = ir.FunctionType(ir.VoidType(), [vector, pointer, int32, mask])
    return cgutils.get_or_insert_function(module, function_type, name)


def fetch(builder, pointer, level):
    """Start to read the cache line of ``pointer``, which may be anywhere, into the cache of that level."""
    arguments = [pointer.type, int32, int32, int32]
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), arguments), "llvm.prefetch.p0"
    )
    builder.call(function, [pointer, int32(0), int32(4 - level), int32(1)])
