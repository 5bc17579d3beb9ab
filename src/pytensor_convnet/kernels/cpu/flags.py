"""Flags that one thread at a time may take; compiled code finds them by symbol, so that it stays cacheable."""

import ctypes

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

_int64 = ir.IntType(64)
_values: dict[str, ctypes.c_int64] = {}


def new_flag(symbol: str) -> None:
    """Let compiled code find a new flag by its symbol."""
    value = _values[symbol] = ctypes.c_int64(0)
    binding.add_symbol(symbol, ctypes.addressof(value))


def _place(builder, symbol):
    """The flag's address, declared in the module being built."""
    return builder.module.globals.get(symbol) or ir.GlobalVariable(builder.module, _int64, symbol)


def emit_take(builder, symbol):
    """Take a flag; whether it was free."""
    swapped = builder.cmpxchg(_place(builder, symbol), _int64(0), _int64(1), "acq_rel", "acquire")
    return builder.extract_value(swapped, 1)


def emit_release(builder, symbol):
    """Give a flag back."""
    builder.store_atomic(_int64(0), _place(builder, symbol), "release", align=8)


def flag(symbol: str):
    """Two functions for kernels: one takes a new flag and says whether it was free, one gives it back."""
    new_flag(symbol)

    @intrinsic
    def take(typing_context):
        def codegen(context, builder, signature, arguments):
            return emit_take(builder, symbol)

        return types.boolean(), codegen

    @intrinsic
    def release(typing_context):
        def codegen(context, builder, signature, arguments):
            emit_release(builder, symbol)
            return context.get_dummy_value()

        return types.void(), codegen

    return take, release


def take_for_ever(symbol: str) -> None:
    """Take a flag, from Python; nobody gives it back."""
    _values[symbol].value = 1
