"""Memory that freed results leave behind, kept for the next ones.

The system hands out fresh memory page by page and clears each page first: for a kernel at the speed of memory that
takes longer than its work. A program that trains a network makes arrays of the same sizes over and over, and malloc
returns large ones to the system each time. So what `memory.new_array` made is kept, when it is freed, until an array
of about that size is wanted, `kept_limit` bytes in all and the oldest given up first.

Arrays are freed by whoever drops the last reference, on any thread, perhaps without Python's lock. So this is
compiled code behind two symbols; a flag guards its table, and who finds that taken for long goes without: to malloc,
and to free.
"""

import ctypes
import os

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu.flags import flag
from pytensor_convnet.kernels.cpu.jit import callback, leaf_part, plain_kernel
from pytensor_convnet.kernels.cpu.structures import make_array

TAKE, GIVE = "pytensor_convnet_take_memory", "pytensor_convnet_give_memory"
"""Symbols of ``void *take(size)``, which returns null where there is no memory, and ``void give(void *)``."""

_PLACES = 64
"""Most blocks that are kept."""

_TRIES = 2000
"""So often the flag is looked at."""

_HEADER_BYTES = 64
"""Before each block: its size and where its memory begins; a cache line, so that blocks begin with one."""

_LIMIT, _KEPT, _CLOCK, _FIRST = range(4)
_state = (ctypes.c_int64 * (_FIRST + 3 * _PLACES))()
binding.add_symbol("pytensor_convnet_kept_memory", ctypes.addressof(_state))

_take_table, _release_table = flag("pytensor_convnet_kept_memory_taken")

_int64, _address = ir.IntType(64), ir.IntType(8).as_pointer()
_numbers = types.int64[::1]


def _default_limit() -> int:
    """A sixteenth of the machine's memory, or ``PYTENSOR_CONVNET_KEPT_BYTES``."""
    chosen = os.environ.get("PYTENSOR_CONVNET_KEPT_BYTES", "")
    if chosen:
        if not chosen.isdigit():
            raise ValueError(f"PYTENSOR_CONVNET_KEPT_BYTES must be a number of bytes, not {chosen!r}")
        return int(chosen)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16
    except (AttributeError, ValueError, OSError):
        return 256 << 20


_state[_LIMIT] = _default_limit()


def _array_at(context, builder, place, length):
    """Numbers that Python, or a block, holds."""
    return make_array(context, builder, _numbers, place, [_int64(length)], [_int64(8)])


@intrinsic
def _table(typing_context):
    """The state, as numbers."""

    def codegen(context, builder, signature, arguments):
        variable = ir.GlobalVariable(builder.module, _int64, "pytensor_convnet_kept_memory")
        return _array_at(context, builder, variable, len(_state))

    return _numbers(), codegen


@intrinsic
def _header(typing_context, block):
    """The numbers before a block."""

    def codegen(context, builder, signature, arguments):
        start = builder.sub(arguments[0], _int64(_HEADER_BYTES))
        return _array_at(context, builder, builder.inttoptr(start, _int64.as_pointer()), _HEADER_BYTES // 8)

    return _numbers(types.intp), codegen


@intrinsic
def _allocate(typing_context, size):
    def codegen(context, builder, signature, arguments):
        return builder.ptrtoint(context.nrt.allocate_unchecked(builder, arguments[0]), _int64)

    return types.intp(types.intp), codegen


@intrinsic
def _free(typing_context, start):
    def codegen(context, builder, signature, arguments):
        context.nrt.free(builder, builder.inttoptr(arguments[0], _address))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@leaf_part
def _try_to_take_table():
    taken, tries = False, 0
    while not taken and tries < _TRIES:
        taken = _take_table()
        tries += 1
    return taken


@leaf_part
def _take_out(table, place):
    """The block at a place, which is empty from now on."""
    block, size = table[_FIRST + place], table[_FIRST + _PLACES + place]
    table[_FIRST + place], table[_FIRST + _PLACES + place] = 0, 0
    table[_KEPT] -= size
    return block


@leaf_part
def _oldest(table):
    """The place of the block that has been kept longest, and an empty place; -1 for none."""
    oldest, empty = -1, -1
    for place in range(_PLACES):
        if table[_FIRST + place] == 0:
            empty = place
        elif oldest < 0 or table[_FIRST + 2 * _PLACES + place] < table[_FIRST + 2 * _PLACES + oldest]:
            oldest = place
    return oldest, empty


@callback(types.intp(types.intp))
def _take(size):
    table, best, block = _table(), -1, 0
    if _try_to_take_table():
        for place in range(_PLACES):
            found = table[_FIRST + _PLACES + place]
            # A fifth too large at most.
            if size <= found <= size + size // 4 and (best < 0 or found < table[_FIRST + _PLACES + best]):
                best = place
        if best >= 0:
            block = _take_out(table, best)
        _release_table()
    if block == 0:
        start = _allocate(size + 2 * _HEADER_BYTES)
        if start != 0:
            block = (start // _HEADER_BYTES + 2) * _HEADER_BYTES
            header = _header(block)
            header[0], header[1] = size, start
    return block


@callback(types.void(types.intp))
def _give(block):
    table = _table()
    size = _header(block)[0]
    # Freed after the flag is given back: the block itself, or one that makes room for it.
    left = block
    if size <= table[_LIMIT] and _try_to_take_table():
        left = 0
        oldest, empty = _oldest(table)
        while empty < 0 or table[_KEPT] + size > table[_LIMIT]:
            if left != 0:
                _free(_header(left)[1])
            left = _take_out(table, oldest)
            oldest, empty = _oldest(table)
        table[_CLOCK] += 1
        table[_KEPT] += size
        table[_FIRST + empty], table[_FIRST + _PLACES + empty] = block, size
        table[_FIRST + 2 * _PLACES + empty] = table[_CLOCK]
        _release_table()
    if left != 0:
        _free(_header(left)[1])


binding.add_symbol(TAKE, _take.address)
binding.add_symbol(GIVE, _give.address)


def kept_limit() -> int:
    """Most bytes that are kept."""
    return _state[_LIMIT]


def kept_bytes() -> int:
    """Bytes that are kept now.

    Examples
    --------
    >>> release_memory()
    >>> kept_bytes()
    0
    """
    return _state[_KEPT]


def release_memory() -> None:
    """Give all that is kept back to the system."""
    _release()


@plain_kernel
def _release():
    table = _table()
    if _try_to_take_table():
        for place in range(_PLACES):
            if table[_FIRST + place] != 0:
                _free(_header(_take_out(table, place))[1])
        _release_table()
