"""Running a kernel chunk by chunk on Numba's threads, compiled once for all kernels.

A kernel called inside `prange` is optimised and translated again and again: in the loop's body, in its wrapper,
in the serial branch beside it, and in every caller of the function that holds the loop. That made a kernel
whose own compilation takes half a second cost six. Here the package has a single `prange`, over calls through
a function pointer: it is compiled once, and a kernel's code is only in itself and in its caller.
"""

import functools

import numba
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.jit import kernel, parallel_kernel
from pytensor_convnet.kernels.cpu.threads import release_pool, take_pool, thread_count

part = functools.partial(numba.njit, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of a part of a kernel, which only compiled code calls: compiles faster than `kernel`."""

_int64, _bytes = ir.IntType(64), ir.IntType(8).as_pointer()
_chunk_function = ir.FunctionType(ir.VoidType(), [_int64, _int64, _bytes])


@intrinsic
def _call(typing_context, function, chunk, chunks, arguments):
    """Call the function at address ``function``."""

    def codegen(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], _chunk_function.as_pointer())
        builder.call(pointer, [values[1], values[2], builder.inttoptr(values[3], _bytes)])
        return context.get_dummy_value()

    return types.void(types.intp, types.int64, types.int64, types.intp), codegen


@parallel_kernel
def _run_parallel(function, arguments, chunks):
    for chunk in prange(chunks):
        _call(function, chunk, chunks, arguments)


@part
def _run(function, arguments, chunks, parallel):
    """Call the function at address ``function`` for every chunk."""
    if parallel and take_pool():
        _run_parallel(function, arguments, chunks)
        release_pool()
    else:
        for chunk in range(chunks):
            _call(function, chunk, chunks, arguments)


@intrinsic
def _stored(typing_context, arguments):
    """Address, in the caller's stack frame, of a zero and the ``arguments`` after it."""

    def codegen(context, builder, signature, values):
        fields = types.Tuple((types.int64, *arguments.types))
        parts = [_int64(0), *cgutils.unpack_tuple(builder, values[0], len(arguments))]
        stored = cgutils.alloca_once_value(builder, context.make_tuple(builder, fields, parts))
        return builder.ptrtoint(stored, _int64)

    return types.intp(arguments), codegen


@intrinsic
def _first(typing_context, address):
    """The integer at ``address``."""

    def codegen(context, builder, signature, values):
        return builder.load(builder.inttoptr(values[0], _int64.as_pointer()))

    return types.int64(types.intp), codegen


@intrinsic
def _entry(typing_context, body, arguments):
    """Address of a function that calls ``body`` with a chunk, the number of chunks and stored ``arguments``.

    When ``body`` raises, the function puts a one before the arguments.
    """
    argument_types = (types.int64, types.int64, *arguments.types)
    body.dispatcher.compile(argument_types)

    def codegen(context, builder, signature, values):
        compiled = body.dispatcher.overloads[argument_types]
        context.active_code_library.add_linking_library(compiled.library)
        fields = types.Tuple((types.int64, *arguments.types))
        name = f"{compiled.fndesc.mangled_name}.chunk"
        function = ir.Function(builder.module, _chunk_function, name)
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block())
        stored = inner.bitcast(function.args[2], context.get_value_type(fields).as_pointer())
        parts = cgutils.unpack_tuple(inner, inner.load(stored), len(fields))
        status, _ = context.call_conv.call_function(
            inner,
            context.declare_function(builder.module, compiled.fndesc),
            types.none,
            argument_types,
            [function.args[0], function.args[1], *parts[1:]],
        )
        with inner.if_then(status.is_error, likely=False):
            inner.store(_int64(1), inner.bitcast(function.args[2], _int64.as_pointer()))
        inner.ret_void()
        return builder.ptrtoint(function, _int64)

    return types.intp(body, arguments), codegen


@kernel(inline="always")
def over_chunks(body, arguments, parallel):
    """Call ``body(chunk, chunks, *arguments)`` for every chunk of a problem, on all threads if ``parallel``.

    ``body`` is a kernel that returns nothing. The chunks are the same, and so is the result, whether they run
    in parallel or, because the pool is taken or ``parallel`` is false, one after the other.
    """
    stored = _stored(arguments)
    _run(_entry(body, arguments), stored, thread_count(), parallel)
    if _first(stored):
        raise MemoryError("a kernel could not allocate its scratch memory")
