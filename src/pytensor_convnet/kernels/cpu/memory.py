"""Memory for results, in huge pages where the system has them.

The system hands out fresh memory page by page, at each page's first touch. With pages of 4 KiB that takes longer than
filling them, and a kernel at the speed of memory would spend most of its time there; with pages of 2 MiB it costs
next to nothing. Linux gives those to memory that asks for them. NumPy asks for its own arrays, from the same size on;
Numba does not.
"""

import mmap
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

CACHE_LINE_BYTES = 64

HUGE_BYTES = 1 << 22
"""Arrays of at least so many bytes ask for huge pages."""

_ADVICE = 14  # Linux's MADV_HUGEPAGE


@intrinsic
def _ask_for_huge_pages(typing_context, array):
    """Advise the system to back the contiguous ``array`` with huge pages. A refusal changes nothing but speed."""

    def codegen(context, builder, signature, arguments):
        if sys.platform != "linux":
            return context.get_dummy_value()
        (array_type,) = signature.args
        fields = context.make_array(array_type)(context, builder, arguments[0])
        int32, int64, address = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
        advise = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(int32, [address, int64, int32]), "madvise"
        )
        start = builder.ptrtoint(fields.data, int64)
        page = builder.and_(start, int64(-mmap.PAGESIZE))
        length = builder.add(builder.mul(fields.nitems, fields.itemsize), builder.sub(start, page))
        builder.call(advise, [builder.inttoptr(page, address), length, int32(_ADVICE)])
        return context.get_dummy_value()

    return types.void(array), codegen


@register_jitable
def new_output(shape, dtype):
    """An array like ``np.empty(shape, dtype)``, for what a kernel returns: it starts with a cache line, and a large one
    is in huge pages."""
    size = 1
    for length in shape:
        size *= length
    room = np.empty(size + CACHE_LINE_BYTES, dtype)
    start = -room.ctypes.data % CACHE_LINE_BYTES // room.itemsize
    array = room[start : start + size].reshape(shape)
    if array.nbytes >= HUGE_BYTES:
        _ask_for_huge_pages(array)
    return array
