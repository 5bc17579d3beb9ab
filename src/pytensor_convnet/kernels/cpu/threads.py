"""When a kernel may use Numba's thread pool, and when it must not.

Numba's pool is unsafe in two situations that PyTensor users meet: its 'workqueue' layer aborts the process
when two Python threads enter it at once, and its GNU OpenMP layer kills a forked child that enters it. So the
pool has one flag, *taken*. A kernel takes it before a parallel loop and gives it back after; a kernel that
finds it taken computes on its own thread instead; and a forked child finds it taken for ever. Compiled code
reads the flag through a symbol, so kernels stay cacheable.

A parallel kernel is written so::

    @parallel_kernel
    def work(...):
        chunks = thread_count()
        if chunks > 1 and take_pool():
            for chunk in prange(chunks):
                body(chunk, chunks, ...)
            release_pool()
        else:
            for chunk in range(chunks):
                body(chunk, chunks, ...)

Both branches compute the same chunks, so the result does not depend on which was taken.
"""

import os

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.flags import flag, take_for_ever

_SYMBOL = "pytensor_convnet_pool_taken"

take_pool, release_pool = flag(_SYMBOL)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: take_for_ever(_SYMBOL))

# Loads Numba's threading layer, whose symbols a kernel read from the disk cache needs.
numba.get_num_threads()


@intrinsic
def thread_count(typing_context):
    """Number of threads that `numba.set_num_threads` allows (callable from cached code, as Numba's own is not)."""

    def codegen(context, builder, signature, arguments):
        function_type = ir.FunctionType(ir.IntType(64), [])
        function = cgutils.get_or_insert_function(builder.module, function_type, "get_num_threads")
        return builder.call(function, [])

    return types.intp(), codegen
