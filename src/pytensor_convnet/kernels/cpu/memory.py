"""Memory for results, in huge pages where the system has them.

The system hands out fresh memory page by page, at each page's first touch. With pages of 4 KiB that takes longer than
filling them, and a kernel at the speed of memory would spend most of its time there; with pages of 2 MiB it costs
next to nothing. Linux gives those to memory that asks for them. NumPy asks for its own arrays, from the same size on;
Numba does not.
"""

import mmap
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.npydecl import parse_dtype
from numba.extending import intrinsic

CACHE_LINE_BYTES = 64

HUGE_BYTES = 1 << 22
"""Arrays of at least so many bytes ask for huge pages."""

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


@intrinsic
def new_output(typing_context, shape, dtype):
    """An array like ``np.empty(shape, dtype)``, for what a kernel returns: it starts with a cache line, and a large one
    is in huge pages.

    (Emitted, because Numba takes a fifth of a second to translate the same in Python.)
    """
    array_type = types.Array(parse_dtype(dtype), shape.count, "C")

    def codegen(context, builder, signature, arguments):
        lengths = [
            context.cast(builder, length, type_, types.intp)
            for length, type_ in zip(cgutils.unpack_tuple(builder, arguments[0]), shape.types)
        ]
        data_type = context.get_data_type(array_type.dtype)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(data_type))
        size = _emit_size(context, builder, lengths, itemsize)
        memory = context.nrt.meminfo_alloc_aligned(builder, size, CACHE_LINE_BYTES)
        data = context.nrt.meminfo_data(builder, memory)
        if sys.platform == "linux":
            with builder.if_then(builder.icmp_signed(">=", size, itemsize.type(HUGE_BYTES))):
                _ask_for_huge_pages(builder, data, size)
        strides = [itemsize]
        for length in reversed(lengths[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        array = context.make_array(array_type)(context, builder)
        context.populate_array(
            array,
            data=builder.bitcast(data, data_type.as_pointer()),
            shape=cgutils.pack_array(builder, lengths),
            strides=cgutils.pack_array(builder, strides),
            itemsize=itemsize,
            meminfo=memory,
        )
        return array._getvalue()

    return array_type(shape, dtype), codegen
