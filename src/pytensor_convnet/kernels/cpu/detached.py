"""Kernels behind a pointer: compiled once, whoever calls them.

Numba compiles everything that a function calls again into that function. For large register-blocked loops that would
be seconds for each user. A *detached* kernel is reached through a pointer instead: callers hold a few instructions,
and its own code, with its parts (`linking`), is compiled, or read from the disk cache, once a process. A *chunked* one
is detached and runs in parallel.

The pointers live in this module and compiled code finds them by symbol, so that callers can be cached on disk.
A null pointer means that this process has not loaded the kernel yet: the caller then calls back into Python.
"""

import ctypes
import functools

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, sigutils
from numba.core.codegen import JITCodeLibrary
from numba.core.errors import TypingError
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.jit import keep_on_disk
from pytensor_convnet.kernels.cpu.linking import BriefCompiler, KernelCompiler, ThoroughCompiler, libraries_of
from pytensor_convnet.kernels.cpu.llvm import int64, new_place
from pytensor_convnet.kernels.cpu.threads import CHUNK_FUNCTION, call_chunks

FLOATS = ((types.float32,), (types.float64,))
"""The dtypes of most kernels, as `detached` and `chunked` take them."""

NO_ARRAYS = ((),)
"""For kernels that take none."""


class _Pointer:
    """The pointer to one compiled version of a kernel, and how to set it."""

    def __init__(self, dispatcher, label, signature):
        self.dispatcher, self.signature = dispatcher, signature
        self.symbol = f"{dispatcher.py_func.__module__}.{dispatcher.py_func.__name__}.{label}"
        self._callback = ctypes.CFUNCTYPE(None)(self.load)
        self._cell = (ctypes.c_int64 * 2)(0, ctypes.cast(self._callback, ctypes.c_void_p).value or 0)
        binding.add_symbol(self.symbol, ctypes.addressof(self._cell))

    def types(self):
        """Numba's types of the arguments, and of what is returned."""
        arguments, returned = sigutils.normalize_signature(self.signature())
        return arguments, returned or types.none

    def load(self):
        """Compile the kernel or read it from the disk cache, and set the pointer."""
        if not self._cell[0]:
            arguments, returned = self.types()
            with libraries_of(JITCodeLibrary, self.dispatcher.targetctx.codegen()):
                self.dispatcher.compile(returned(*arguments))
            compiled = self.dispatcher.overloads[arguments]
            self._cell[0] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)

    def emit_load(self, context, builder):
        """Emit the instructions that get the pointer; they raise RuntimeError where it cannot be had."""
        cell = builder.module.globals.get(self.symbol)
        cell = cell or ir.GlobalVariable(builder.module, ir.ArrayType(int64, 2), self.symbol)
        place = builder.gep(cell, [int64(0), int64(0)])
        with cgutils.if_unlikely(builder, cgutils.is_null(builder, builder.load(place))):
            callback = builder.load(builder.gep(cell, [int64(0), int64(1)]))
            callback_type = ir.FunctionType(ir.VoidType(), []).as_pointer()
            builder.call(builder.inttoptr(callback, callback_type), [])
        pointer = builder.load(place)
        with cgutils.if_unlikely(builder, cgutils.is_null(builder, pointer)):
            message = f"{self.dispatcher.py_func.__name__} could not be compiled; the error was printed above"
            context.call_conv.return_user_exc(builder, RuntimeError, (message,))
        return pointer


def detached(signature, dtypes=FLOATS, lazily=False, loops=False):
    """Decorator of a kernel that is compiled once, and called by other kernels as before.

    ``dtypes`` lists the combinations of dtypes that it may be called with: code that was read from the disk cache
    can only refer to what every process knows. ``signature`` makes the Numba types of the arguments from one of
    them, or a Numba signature if something is returned. A combination is compiled when a caller that needs it is, or
    with ``lazily``, for what is seldom called, at the first call. One with ``loops`` that take time is optimised as
    those that are chunked; others are passed through once a call, and compiled in less time (`linking`).
    """

    def decorate(dispatcher):
        pointers = _pointers(dispatcher, KernelCompiler if loops else BriefCompiler, signature, dtypes)

        @intrinsic
        def call(typing_context, *arguments):
            pointer = _pointer_for(pointers, arguments)
            kernel_types, returned = pointer.types()
            if not lazily:
                pointer.load()

            def codegen(context, builder, signature, arguments):
                (packed,) = arguments
                kernel_pointer = pointer.emit_load(context, builder)
                values = cgutils.unpack_tuple(builder, packed)
                return _emit_call(context, builder, kernel_pointer, returned, kernel_types, values)

            return returned(types.Tuple(kernel_types)), codegen

        return call

    return decorate


def chunked(signature, dtypes=FLOATS, otherwise=None, thorough=False):
    """Decorator of a kernel ``(chunk, chunks, *arguments)`` that does one chunk of a work and returns nothing.

    What it becomes is called by other kernels as ``(chunks, *arguments)`` and does all chunks, in parallel if
    it may. ``signature`` and ``dtypes`` say what types ``arguments`` have, as for `detached`; for other dtypes
    ``otherwise``, another chunked kernel, is called. ``thorough`` optimises as Numba does, for loops over numbers that
    LLVM is to unroll.
    """

    def decorate(dispatcher):
        kind = ThoroughCompiler if thorough else KernelCompiler
        pointers = _pointers(dispatcher, kind, lambda *numbers: (types.intp, types.intp, *signature(*numbers)), dtypes)
        pointers += _pointers_of.get(otherwise, [])

        @intrinsic
        def call(typing_context, chunks, *arguments):
            pointer = _pointer_for(pointers, arguments)
            pointer.load()
            (_, chunks, *kernel_types), _ = pointer.types()

            def codegen(context, builder, signature, arguments):
                chunks, packed = arguments
                return _emit_chunks(context, builder, pointer, chunks, cgutils.unpack_tuple(builder, packed))

            return types.void(chunks, types.Tuple(kernel_types)), codegen

        _pointers_of[call] = pointers
        return call

    return decorate


_pointers_of: dict = {}
"""The pointers of each chunked kernel."""


def _pointers(dispatcher, kind, signature, dtypes):
    """A pointer for each combination of dtypes, whose kernel a compiler of some kind makes."""
    compiler = dispatcher._compiler
    compiler.pipeline_class = getattr(compiler.pipeline_class, "of_kernels", {}).get(kind, kind)
    keep_on_disk(dispatcher)
    return [
        _Pointer(dispatcher, ".".join(map(str, numbers)), functools.partial(signature, *numbers)) for numbers in dtypes
    ]


def _array_dtypes(arguments):
    return [argument.dtype for argument in arguments if isinstance(argument, types.Array)]


def _pointer_for(pointers, arguments):
    """The pointer for the dtypes of the arrays among ``arguments``, which are Numba types."""
    found = _array_dtypes(arguments)
    for pointer in pointers:
        if _array_dtypes(pointer.types()[0]) == found:
            return pointer
    name = pointers[0].dispatcher.py_func.__name__
    raise TypingError(f"{name} does not take arrays of these dtypes together: {', '.join(map(str, found))}")


def _emit_call(context, builder, pointer, returned, kernel_types, values):
    """Emit a call of the kernel at ``pointer``, which is an integer; what it raises is raised on."""
    kernel_type = context.call_conv.get_function_type(returned, kernel_types).as_pointer()
    kernel = builder.inttoptr(pointer, kernel_type)
    status, result = context.call_conv.call_function(builder, kernel, returned, kernel_types, values)
    with cgutils.if_unlikely(builder, status.is_error):
        context.call_conv.return_status_propagate(builder, status)
    return result


def _emit_chunks(context, builder, pointer, chunks, arguments):
    """Emit a closure of the kernel's pointer, a flag for failure and the arguments, and the call that runs it."""
    kernel_pointer = pointer.emit_load(context, builder)
    closure_type = ir.LiteralStructType([int64, int64, *(argument.type for argument in arguments)])
    closure = new_place(builder, closure_type)
    for place, value in enumerate((kernel_pointer, int64(0), *arguments)):
        builder.store(value, cgutils.gep_inbounds(builder, closure, 0, place))
    call_chunks(builder, _chunk_of_closure(context, builder.module, pointer, closure_type), closure, chunks)
    failed = builder.load(cgutils.gep_inbounds(builder, closure, 0, 1))
    with cgutils.if_unlikely(builder, cgutils.is_not_null(builder, failed)):
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory for a kernel's buffers",))
    return context.get_dummy_value()


def _chunk_of_closure(context, module, pointer, closure_type):
    """The function ``(closure, chunk, chunks)`` that calls the closure's kernel with its arguments."""
    function = ir.Function(module, CHUNK_FUNCTION, module.get_unique_name(f"{pointer.symbol}.chunk"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    closure, chunk, chunks = function.args
    closure = builder.bitcast(closure, closure_type.as_pointer())
    kernel_pointer, _, *arguments = (
        builder.load(cgutils.gep_inbounds(builder, closure, 0, place)) for place in range(len(closure_type.elements))
    )
    kernel_types, _ = pointer.types()
    kernel_type = context.call_conv.get_function_type(types.none, kernel_types).as_pointer()
    kernel = builder.inttoptr(kernel_pointer, kernel_type)
    status, _ = context.call_conv.call_function(builder, kernel, types.none, kernel_types, (chunk, chunks, *arguments))
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(int64(1), cgutils.gep_inbounds(builder, closure, 0, 1))
    builder.ret_void()
    return function
