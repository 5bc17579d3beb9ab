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

import ctypes
import os

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_SYMBOL = "pytensor_convnet_pool_taken"
_taken = ctypes.c_int64(0)
binding.add_symbol(_SYMBOL, ctypes.addressof(_taken))


def _take_for_ever() -> None:
    _taken.value = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_take_for_ever)

# Loads Numba's threading layer, whose symbols a kernel read from the disk cache needs.
numba.get_num_threads()

_int64 = ir.IntType(64)


def _flag(builder):
    """The flag's address, declared in the module being built."""
    variable = builder.module.globals.get(_SYMBOL)
    return variable or ir.GlobalVariable(builder.module, _int64, _SYMBOL)


@intrinsic
def thread_count(typing_context):
    """Number of threads that `numba.set_num_threads` allows (callable from cached code, as Numba's own is not)."""

    def codegen(context, builder, signature, arguments):
        function_type = ir.FunctionType(_int64, [])
        function = cgutils.get_or_insert_function(builder.module, function_type, "get_num_threads")
        return builder.call(function, [])

    return types.intp(), codegen


@intrinsic
def take_pool(typing_context):
    """Take the thread pool if it is free; whether it was."""

    def codegen(context, builder, signature, arguments):
        swapped = builder.cmpxchg(_flag(builder), _int64(0), _int64(1), "acq_rel", "acquire")
        return builder.extract_value(swapped, 1)

    return types.boolean(), codegen


@intrinsic
def release_pool(typing_context):
    """Give the thread pool back."""

    def codegen(context, builder, signature, arguments):
        builder.store_atomic(_int64(0), _flag(builder), "release", align=8)
        return context.get_dummy_value()

    return types.void(), codegen
