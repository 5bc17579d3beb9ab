"""What the machine can do at most: multiply-adds in registers, and copies of memory.

Both run on all of Numba's threads, a copy also on one, and the best of many short attempts counts: on a machine that
does other things at times, some attempt meets none of them.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pytensor_convnet.bench.measure import seconds_of

ATTEMPTS = 7
SECONDS = 0.1
"""How long attempts go on, at least, once there were so many."""

ROUNDS = 100_000
LARGE_COPY = 2**29
"""Bytes, read and written, of a copy that no cache holds."""


def multiply_add_rate(dtype: str = "float32") -> float:
    """Floating-point operations a second of fused multiply-adds that wait for nothing, a multiply-add counted as two.

    The loop nest: for each thread, `ROUNDS` times, one ``sum = sum * factor + term`` for each of some independent
    vectors of sums, as many as registers hold.

    Parameters
    ----------
    dtype : {'float32', 'float64'}
    """
    import numba

    from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES

    multiply_adds = _multiply_adds()
    threads = numba.get_num_threads()
    sums, values = np.zeros(threads, dtype), np.array([0.5, 1.0], dtype)
    multiply_adds(sums, values, 1)
    best = _best(lambda: multiply_adds(sums, values, ROUNDS))
    lanes = VECTOR_BYTES // sums.itemsize
    return 2 * threads * ROUNDS * _accumulators() * lanes / best


def copy_rate(nbytes: int = LARGE_COPY) -> float:
    """Bytes a second of copying one array to another, each byte counted as it is read and as it is written.

    Parameters
    ----------
    nbytes : int
        How many bytes are read and written altogether. Small copies stay within a cache, and are faster.
    """
    copy = _copy()
    source = np.ones(max(nbytes // 2, 1), np.uint8)
    target = np.zeros_like(source)

    copy(source, target)
    best = min(_best(lambda: copy(source, target)), _best(lambda: np.copyto(target, source)))
    return 2 * source.nbytes / best


def _best(attempt: Callable[[], object]) -> float:
    """The seconds of the quickest attempt."""
    best, attempts, end = float("inf"), 0, time.perf_counter() + SECONDS
    while attempts < ATTEMPTS or time.perf_counter() < end:
        best = min(best, seconds_of(attempt))
        attempts += 1
    return best


def _accumulators() -> int:
    """Vectors of sums in the loop: enough to hide the latency of a multiply-add, and within the registers."""
    from pytensor_convnet.kernels.cpu.llvm import REGISTERS

    return 3 * REGISTERS // 4


@functools.cache
def _copy() -> Any:
    import numba

    @numba.njit(parallel=True)
    def copy(source, target):
        chunks = numba.get_num_threads()
        for chunk in numba.prange(chunks):
            start, stop = chunk * source.size // chunks, (chunk + 1) * source.size // chunks
            target[start:stop] = source[start:stop]

    return copy


@functools.cache
def _multiply_adds() -> Any:
    import numba

    add_up = _add_up()

    @numba.njit(parallel=True)
    def multiply_adds(sums, values, rounds):
        for thread in numba.prange(sums.size):
            sums[thread] = add_up(values, rounds)

    return multiply_adds


def _add_up() -> Any:
    """An intrinsic: the sum over all lanes of all sums after ``rounds`` rounds, which must be at least one."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from pytensor_convnet.kernels.cpu import simd

    def generate(context, builder, signature, arguments):
        values, rounds = arguments
        element = simd.element_type(signature.args[0])
        vector = simd.vector_type(element)
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{simd.vector_suffix(vector)}"
        )
        data = simd.array_data(context, builder, signature.args[0], values)
        factor, term = (
            simd.splat(builder, builder.load(simd.offset_pointer(builder, data, simd.int64(place))), vector)
            for place in (0, 1)
        )
        before, loop, end = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("end")
        builder.branch(loop)

        builder.position_at_end(loop)
        count = builder.phi(simd.int64)
        count.add_incoming(rounds, before)
        sums = [builder.phi(vector) for _ in range(_accumulators())]
        totals = []
        for number, start in enumerate(sums):
            total = builder.call(multiply_add, [start, factor, term])
            start.add_incoming(ir.Constant(vector, [float(number)] * vector.count), before)
            start.add_incoming(total, loop)
            totals.append(total)
        left = builder.sub(count, simd.int64(1))
        count.add_incoming(left, loop)
        builder.cbranch(builder.icmp_signed(">", left, simd.int64(0)), loop, end)

        builder.position_at_end(end)
        lanes = functools.reduce(builder.fadd, totals)
        return functools.reduce(
            builder.fadd, [builder.extract_element(lanes, simd.int32(lane)) for lane in range(vector.count)]
        )

    @intrinsic
    def add_up(typing_context, values, rounds):
        return values.dtype(values, types.int64), generate

    return add_up
