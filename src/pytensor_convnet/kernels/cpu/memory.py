"""Memory for arrays: what earlier ones left (`kept_memory`), or new, in huge pages where the system has them.

The system hands out fresh memory page by page, at each page's first touch. With pages of 4 KiB that takes longer than
filling them; with pages of 2 MiB it costs little more than clearing them. Linux gives those to memory that asks for
them. NumPy asks for its own arrays, from the same size on; Numba does not.
"""

import mmap
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.npydecl import parse_dtype
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.kept_memory import GIVE, TAKE
from pytensor_convnet.kernels.cpu.llvm import bytes_of
from pytensor_convnet.kernels.cpu.structures import make_array

CACHE_LINE_BYTES = 64

KEPT_BYTES = 1 << 15
"""Arrays of at least so many bytes leave their memory to others; malloc keeps smaller ones itself."""

HUGE_BYTES = 1 << 22
"""Arrays of at least so many bytes ask for huge pages."""

_int64 = ir.IntType(64)

_ADVICE = 14  # Linux's MADV_HUGEPAGE


def _ask_for_huge_pages(builder, data, size):
    """Advise the system to back memory with huge pages. A refusal changes nothing but speed."""
    int32, int64, address = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
    advise = cgutils.get_or_insert_function(builder.module, ir.FunctionType(int32, [address, int64, int32]), "madvise")
    start = builder.ptrtoint(data, int64)
    page = builder.and_(start, int64(-mmap.PAGESIZE))
    length = builder.add(size, builder.sub(start, page))
    builder.call(advise, [builder.inttoptr(page, address), length, int32(_ADVICE)])


def _emit_size(context, builder, lengths, itemsize):
    """The bytes of an array of these lengths; raises ValueError, as NumPy does, where they cannot be counted."""
    size, too_large = itemsize, ir.IntType(1)(0)
    for length in lengths:
        product = builder.smul_with_overflow(size, length)
        size = builder.extract_value(product, 0)
        too_large = builder.or_(too_large, builder.extract_value(product, 1))
    with cgutils.if_unlikely(builder, too_large):
        context.call_conv.return_user_exc(builder, ValueError, ("an array of so many numbers is too big",))
    return size


def _manage(builder, data):
    """What counts the references to memory that was taken from `kept_memory`, by Numba's interface for such."""
    address = ir.IntType(8).as_pointer()
    give = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [address]), GIVE)
    manage = ir.FunctionType(address, [address, give.type]).as_pointer()
    interface = ir.LiteralStructType([address, address, manage]).as_pointer()  # its first functions
    get_interface = cgutils.get_or_insert_function(builder.module, ir.FunctionType(interface, []), "NRT_get_api")
    function = builder.load(cgutils.gep_inbounds(builder, builder.call(get_interface, []), 0, 2))
    return builder.call(function, [data, give])


def _memory_function(context, module):
    """The function from a size to memory, null if there is none, and its counter of references."""
    address = ir.IntType(8).as_pointer()
    pair = ir.LiteralStructType([address, address])
    function = cgutils.get_or_insert_function(module, ir.FunctionType(pair, [_int64]), "pytensor_convnet.new_memory")
    if not function.is_declaration:
        return function
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    (size,) = function.args
    with builder.if_then(builder.icmp_signed("<", size, _int64(KEPT_BYTES))):
        counter = context.nrt.meminfo_alloc_aligned_unchecked(builder, size, CACHE_LINE_BYTES)
        with cgutils.if_likely(builder, cgutils.is_not_null(builder, counter)):
            builder.ret(cgutils.pack_struct(builder, (context.nrt.meminfo_data(builder, counter), counter)))
        builder.ret(pair(None))
    take = cgutils.get_or_insert_function(module, ir.FunctionType(address, [_int64]), TAKE)
    taken = builder.call(take, [size])
    with cgutils.if_unlikely(builder, cgutils.is_null(builder, taken)):
        builder.ret(pair(None))
    if sys.platform == "linux":
        with builder.if_then(builder.icmp_signed(">=", size, _int64(HUGE_BYTES))):
            _ask_for_huge_pages(builder, taken, size)
    builder.ret(cgutils.pack_struct(builder, (taken, _manage(builder, taken))))
    return function


def _emit_memory(context, builder, size):
    """Memory and its counter of references; raises MemoryError where there is none."""
    memory = builder.call(_memory_function(context, builder.module), [size])
    data, counter = cgutils.unpack_tuple(builder, memory, 2)
    with cgutils.if_unlikely(builder, cgutils.is_null(builder, data)):
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory for an array",))
    return data, counter


@intrinsic
def new_array(typing_context, shape, dtype):
    """An array like ``np.empty(shape, dtype)`` that starts with a cache line.

    (Emitted, because Numba takes a fifth of a second to translate the same in Python.)
    """
    array_type = types.Array(parse_dtype(dtype), shape.count, "C")

    def codegen(context, builder, signature, arguments):
        lengths = [
            context.cast(builder, length, type_, types.intp)
            for length, type_ in zip(cgutils.unpack_tuple(builder, arguments[0]), shape.types)
        ]
        itemsize = _int64(bytes_of(array_type.dtype))
        size = _emit_size(context, builder, lengths, itemsize)
        data, memory = _emit_memory(context, builder, size)
        strides = [itemsize]
        for length in reversed(lengths[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.bitcast(data, context.get_data_type(array_type.dtype).as_pointer())
        return make_array(context, builder, array_type, data, lengths, strides, memory)

    return array_type(shape, dtype), codegen
