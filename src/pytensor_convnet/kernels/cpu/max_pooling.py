"""Max pooling of bc01 images on the CPU.

    maxima[b, c, y, x]  = max over i, j of  images[b, c, y * stride + i - top, x * stride + j - left]
    winners[b, c, y, x] = i * window_columns + j  of that maximum

Padding never wins, NaN does, and of equal maxima the first in row-major order wins: of each row of taps the first
greatest, and of the rows the first whose greatest is greatest. So each row of an image is compared once with itself,
column by column, and the results once a row of taps: 4 comparisons for a window of 3 x 3, not 8.

The gradients, in `max_pooling_grad`, need only the winners: one byte a window instead of the images.
"""

import itertools

import numpy as np
from llvmlite import ir
from numba import types

from pytensor_convnet.kernels.cpu.bands import (
    buffer_places,
    new_buffer,
    place_band,
    plan_bands,
    plane_number,
    room_after,
    tap_offsets,
)
from pytensor_convnet.kernels.cpu.detached import FLOATS, chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import MASK_REGISTERS, int64, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pool, useful_threads
from pytensor_convnet.kernels.cpu.row_copies import copy_band, store_within
from pytensor_convnet.kernels.cpu.stages import is_streamed, leave_stage, new_stage
from pytensor_convnet.kernels.cpu.strips import (
    Challenge,
    NanWatch,
    padding_line,
    place_turn,
    place_windows,
    slide,
    turn_results,
)

INTEGERS = tuple(types.Integer.from_bitwidth(bits, signed) for bits in (8, 16, 32, 64) for signed in (False, True))
NUMBERS = (*INTEGERS, types.boolean)
"""Dtypes that are rarely pooled."""

WINNERS = ((types.uint8,), (types.int64,))


def _pairs(dtypes):
    return tuple(number + winner for number, winner in itertools.product(dtypes, WINNERS))


def _integers_beside(vector):
    """Vectors of integers as wide as the floats of a vector."""
    return ir.VectorType(ir.IntType(8 * item_bytes(vector)), vector.count)


class Greatest:
    """The greatest of vectors of numbers that appear one after the other."""

    def __init__(self, e, value):
        self._e = e
        self.best, self._no_nan = e.variable(value), e.variable(value.is_number())

    def challenge(self, value):
        """What is greater than the best so far wins, and NaN does, unless NaN is the best. Returns where it won."""
        best, no_nan = self.best.get(), self._no_nan.get()
        wins = value.beats(best) & no_nan
        self._no_nan.set(no_nan & value.is_number())
        self.best.set(self._e.select(wins, value, best))
        return wins


class _Contest:
    """The greatest of vectors of numbers, and the name of the first that is."""

    def __init__(self, e, value, name):
        self._e = e
        self._greatest, self._winner = Greatest(e, value), e.variable(name)

    def challenge(self, value, name):
        wins = self._greatest.challenge(value)
        self._winner.set(self._e.select(wins, name, self._winner.get()))

    def result(self):
        return self._greatest.best.get(), self._winner.get()


@emitted(arrays=1)
def _pool_columns(e, vector, cells, count, taps_at, taps, best_at, winner_at):
    """For every cell of a band the first greatest of a row of taps, and which of them it is."""
    numbers = _integers_beside(vector)
    vector_bytes = item_bytes(vector) * vector.count
    with e.range(0, count * item_bytes(vector), 2 * vector_bytes) as t:
        places = [t, t + vector_bytes]
        contests = [_Contest(e, e.load(vector, cells + place), e.constant(numbers, 0)) for place in places]
        with e.range(1, taps) as j:
            offset, number = e.load(int64, taps_at + j * 8), e.splat(numbers, j)
            for contest, place in zip(contests, places):
                contest.challenge(e.load(vector, cells + place + offset), number)
        for contest, place in zip(contests, places):
            best, winner = contest.result()
            e.store(best_at + place, best)
            e.store(winner_at + place, winner)


@emitted(arrays=2)
def _pool_rows(
    e, vector, shown, best_at, winner_at, pitch, first_row, y, end_y, rows, window_rows, window_columns, stride_rows,
    top, step, left, out_columns, room, maxima_at, winners_at,
):  # fmt: skip
    """For every window of a band the first greatest of its rows of taps."""
    numbers, item, lanes = _integers_beside(vector), item_bytes(vector), vector.count
    offsets = e.lane_numbers(numbers) * step
    with e.range(y, end_y) as y_:
        start = y_ * stride_rows - top
        row, end_row = e.maximum(start, e.integer(0)), e.minimum(start + window_rows, rows)
        line, done = (row - first_row) * pitch, (y_ - y) * out_columns
        with e.range(0, out_columns, lanes) as x:
            # Where padding seems to win, as all are as low, the first tap inside the image does.
            inside = left - x * step - offsets
            at, number = line + x * item, (row - start) * window_columns
            winner = e.maximum(e.load(numbers, winner_at + at), inside) + number
            contest = _Contest(e, e.load(vector, best_at + at), winner)
            with e.range(1, end_row - row) as i:
                at_i = at + i * pitch
                tap = e.maximum(e.load(numbers, winner_at + at_i), inside)
                contest.challenge(e.load(vector, best_at + at_i), tap + (number + i * window_columns))
            best, winner = contest.result()
            store_within(e, maxima_at + (done + x) * item, x, out_columns, room - done, best)
            place = winners_at + (done + x) * item_bytes(shown)
            store_within(e, place, x, out_columns, room - done, winner.to(shown))


@emitted(arrays=2, returns=True)
def _pool_in_strips(e, vector, shown, maxima_at, winners_at, room, *geometry):
    """The first greatest of every window; returns whether there was a NaN, for which it is none."""
    # With masks of their own registers, vectors of narrow integers follow them.
    numbers = ir.VectorType(ir.IntType(8), vector.count) if MASK_REGISTERS else _integers_beside(vector)
    nans = NanWatch(e, vector)
    window, step, top, left = geometry[8:12]

    def pooling(strip):
        # Where padding seems to win, as all are as low, the first tap inside the image does.
        inside = left - strip.windows * step
        names = [e.maximum(e.constant(inside.type, j), inside).to(numbers) for j in range(strip.common.window)]

        def of_taps(taps):
            nans.look(taps)
            greatest, winner = Challenge(e, taps[0]), names[0]
            for tap, name in zip(taps[1:], names[1:]):
                winner = e.select(greatest.challenge(tap), name, winner)
            return [greatest.best, winner]

        def leave(rows, done, y):
            first_row = e.maximum(top - y * step, e.integer(0))
            (best, winner), *others = rows
            greatest, winner = Challenge(e, best), winner + e.splat(numbers, first_row * window)
            for i, (row, column) in enumerate(others, 1):
                winner = e.select(greatest.challenge(row), column + e.splat(numbers, i * window), winner)
            strip.store(maxima_at, done, room, greatest.best)
            strip.store(winners_at, done, room, winner.to(shown))

        return of_taps, leave

    slide(e, vector, pooling, *geometry)
    return nans.found(e)


def _signature(number, winner):
    return types.Array(number, 4, "A", readonly=True), number[:, :, :, ::1], winner[:, :, :, ::1], WINDOWS


@chunked(_signature, _pairs((number,) for number in NUMBERS))
@part
def _pool_integers(chunk, chunks, images, maxima, winners, windows):
    """For each plane, for each window, for each tap: compare. Integers are rare: no vectors."""
    w = windows
    rows = images.shape[0] * images.shape[1] * w.out_rows
    for row in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
        plane, y = divmod(row, w.out_rows)
        b, c = divmod(plane, images.shape[1])
        top = y * w.stride_rows - w.top
        for x in range(w.out_columns):
            left = x * w.stride_columns - w.left
            first_i, first_j = max(0, -top), max(0, -left)
            best, winner = images[b, c, top + first_i, left + first_j], first_i * w.window_columns + first_j
            for i in range(first_i, min(w.window_rows, w.rows - top)):
                for j in range(first_j, min(w.window_columns, w.columns - left)):
                    value = images[b, c, top + i, left + j]
                    if value > best:
                        best, winner = value, i * w.window_columns + j
            maxima[b, c, y, x], winners[b, c, y, x] = best, winner


@chunked(_signature, _pairs(FLOATS), otherwise=_pool_integers)
@part
def _pool_floats(chunk, chunks, images, maxima, winners, windows):
    """For each plane, or group of planes, for each band: copy it, then `_pool_columns` and `_pool_rows`."""
    w = windows
    plan = plan_bands(images, w)
    sorted_, together = plan.sorting, plan.planes.together
    taps = tap_offsets(plan)
    buffer = new_buffer(together * sorted_.plane + 2 * sorted_.phase, images, -np.inf)
    filling_at, cells = buffer_places(buffer)
    best_at = cells + together * sorted_.plane
    winner_at = best_at + sorted_.phase
    direct, streaming = plan.direct, is_streamed(maxima, plan.planes)
    padding = padding_line(images, direct, -np.inf)
    padding_at, _ = buffer_places(padding)
    stage = new_stage(maxima, turn_results(plan, w), streaming)
    units = plan.planes.groups * plan.bands
    begin, end = chunk * units // chunks, (chunk + 1) * units // chunks
    start = room_after(0, begin, plan, w)
    while begin < end:
        turn, unit = place_turn(images, maxima, stage, streaming, begin, end, plan, w), begin
        begin += turn.units
        numbers_at = address_of(winners) + turn.first * winners.itemsize
        if direct and not _pool_in_strips(
            images, winners, turn.target, numbers_at, turn.room, turn.source, images.strides[1], images.strides[2],
            turn.units, turn.y, turn.end_y, w.rows, w.columns, w.window_rows, w.stride_rows, w.top, w.left,
            w.out_columns, padding_at, plan.ahead,
        ):  # fmt: skip
            unit = begin
        for number in range(unit, begin):
            band = place_band(number, plan, images.shape, w)
            copy_band(images, band.image, band.channel, band.first_row, band.rows, cells, sorted_, together, filling_at)
            for p in range(together):
                count = band.rows * plan.pitch
                _pool_columns(
                    images, cells + p * sorted_.plane, count, address_of(taps), plan.taps, best_at, winner_at
                )  # fmt: skip
                plane = plane_number(band.image, band.channel, p, plan.planes, images.shape)
                at, room = place_windows(plane, band, turn, plan, w)
                _pool_rows(
                    images, winners, best_at, winner_at, sorted_.pitch, band.first_row, band.y, band.end_y, w.rows,
                    w.window_rows, w.window_columns, w.stride_rows, w.top, sorted_.step, w.left, w.out_columns, room,
                    turn.target + at * maxima.itemsize, numbers_at + at * winners.itemsize,
                )  # fmt: skip
        if streaming:
            leave_stage(stage, maxima, start, turn.first, turn.results, begin == end)
    keep_alive(stage)
    keep_alive(padding)
    keep_alive(taps)
    keep_alive(buffer)


@kernel
def max_pool2d(images, winners_dtype, window, stride, padding, ignore_border):
    """The maximum of every window and the tap that won it; see `reference.max_pool2d`.

    Floor: images read once, maxima and winners written once; `docs/cpu.md` has measured multiples of it. From
    channels-last or c01b images it takes two to four times as long.
    """
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    shape = (images.shape[0], images.shape[1], windows.out_rows, windows.out_columns)
    maxima = new_array(shape, images.dtype)
    winners = new_array(shape, winners_dtype)
    if winners.itemsize == 1 and windows.window_rows * windows.window_columns > 256:
        raise ValueError("one byte cannot number the taps of a window of more than 256: pass winners_dtype int64")
    if maxima.size:
        threads = useful_threads(maxima.size * windows.window_rows * windows.window_columns)
        _pool_floats(threads, any_layout(images), maxima, winners, windows)
    return maxima, winners
