"""When a kernel may use Numba's thread pool, and when it must not.

Numba's pool is unsafe in two situations that PyTensor users meet: its 'workqueue' layer aborts the process
when two Python threads enter it at once, and its GNU OpenMP layer kills a forked child that enters it. So the
pool has one flag, *taken*. A kernel takes it before a parallel loop and gives it back after; a kernel that
finds it taken computes on its own thread instead; and a forked child finds it taken for ever. Compiled code
reads the flag through a symbol, so kernels stay cacheable. Both ways compute the same chunks, so that the result
does not depend on which was taken.

The pool is entered where Numba's own loops enter it, without Numba's compiler of such loops, which takes a fifth of a
second.
"""

import os

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.flags import emit_release, emit_take, new_flag, take_for_ever
from pytensor_convnet.kernels.cpu.llvm import int32, int64

_SYMBOL = "pytensor_convnet_pool_taken"

new_flag(_SYMBOL)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: take_for_ever(_SYMBOL))

# Loads Numba's threading layer, whose symbols a kernel read from the disk cache needs.
numba.get_num_threads()


@intrinsic
def thread_count(typing_context):
    """Number of threads that `numba.set_num_threads` allows (callable from cached code, as Numba's own is not)."""

    def codegen(context, builder, signature, arguments):
        return _thread_count(builder)

    return types.intp(), codegen


def _thread_count(builder):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(int64, []), "get_num_threads")
    return builder.call(function, [])


_address = ir.IntType(8).as_pointer()

CHUNK_FUNCTION = ir.FunctionType(ir.VoidType(), [_address, int64, int64])
"""What does a chunk of a work: ``function(closure, chunk, chunks)``."""

_WORK = ir.LiteralStructType([CHUNK_FUNCTION.as_pointer(), _address, int64])
_WORKER = ir.FunctionType(
    ir.VoidType(), [_address.as_pointer(), int64.as_pointer(), int64.as_pointer(), _WORK.as_pointer()]
)
_PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [_WORKER.as_pointer(), *_WORKER.args, int64, int64, int64])


def call_chunks(builder, function, closure, chunks):
    """Emit the calls of a `CHUNK_FUNCTION` for all chunks, each on a thread of its own if the pool is free.

    The package's one parallel loop.
    """
    builder.call(_calls_of_chunks(builder.module), [function, builder.bitcast(closure, _address), chunks])


def _calls_of_chunks(module):
    known = module.globals.get("pytensor_convnet.call_chunks")
    if known is not None:
        return known
    function_type = ir.FunctionType(ir.VoidType(), [CHUNK_FUNCTION.as_pointer(), _address, int64])
    calls = ir.Function(module, function_type, "pytensor_convnet.call_chunks")
    calls.linkage = "linkonce_odr"
    builder = ir.IRBuilder(calls.append_basic_block("entry"))
    function, closure, chunks = calls.args
    alone, several, in_parallel = (calls.append_basic_block(name) for name in ("alone", "several", "in_parallel"))
    builder.cbranch(builder.icmp_signed(">", chunks, int64(1)), several, alone)
    builder.position_at_end(several)
    builder.cbranch(emit_take(builder, _SYMBOL), in_parallel, alone)
    builder.position_at_end(in_parallel)
    _call_in_parallel(builder, function, closure, chunks)
    emit_release(builder, _SYMBOL)
    builder.ret_void()
    builder.position_at_end(alone)
    with cgutils.for_range(builder, chunks) as loop:
        builder.call(function, [closure, loop.index, chunks])
    builder.ret_void()
    return calls


def _call_in_parallel(builder, function, closure, chunks):
    """Have the pool call a worker for all chunks.

    Numba's pool takes addresses, and how far each lies from that of the next item: here address and item are the number
    of a chunk. Meanwhile other threads may run Python, those of the pool among them, which may have a kernel to load.
    """
    work = cgutils.pack_struct(builder, (function, closure, chunks))
    first, one = cgutils.alloca_once_value(builder, _address(None)), cgutils.alloca_once_value(builder, int64(1))
    work, count = cgutils.alloca_once_value(builder, work), cgutils.alloca_once_value(builder, chunks)
    parallel_for = cgutils.get_or_insert_function(builder.module, _PARALLEL_FOR, "numba_parallel_for")
    axes, addresses = int64(0), int64(1)
    arguments = [first, count, one, work, axes, addresses, _thread_count(builder)]
    held = _call_python(builder, "PyGILState_Ensure", int32, [])
    thread = _call_python(builder, "PyEval_SaveThread", _address, [])
    builder.call(parallel_for, [_worker(builder.module), *arguments])
    _call_python(builder, "PyEval_RestoreThread", ir.VoidType(), [thread])
    _call_python(builder, "PyGILState_Release", ir.VoidType(), [held])


def _call_python(builder, name, returned, arguments):
    function_type = ir.FunctionType(returned, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _worker(module):
    """What a thread of the pool does: some chunks, from that on which the first address is."""
    worker = ir.Function(module, _WORKER, "pytensor_convnet.worker")
    worker.linkage = "linkonce_odr"
    builder = ir.IRBuilder(worker.append_basic_block("entry"))
    addresses, counts, _, work = worker.args
    function, closure, chunks = cgutils.unpack_tuple(builder, builder.load(work), 3)
    first = builder.ptrtoint(builder.load(addresses), int64)
    with cgutils.for_range(builder, builder.load(counts)) as loop:
        builder.call(function, [closure, builder.add(first, loop.index), chunks])
    builder.ret_void()
    return worker
