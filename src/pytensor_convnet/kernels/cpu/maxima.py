"""Max pooling without winners, for when nobody needs them; see `max_pooling`."""

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.bands import (
    VECTORS,
    buffer_places,
    new_buffer,
    place_band,
    plan_bands,
    plane_number,
    room_after,
    tap_offsets,
)
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import int64, item_bytes
from pytensor_convnet.kernels.cpu.max_pooling import NUMBERS, Greatest
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pool, useful_threads
from pytensor_convnet.kernels.cpu.row_copies import copy_band, store_within
from pytensor_convnet.kernels.cpu.stages import is_streamed, leave_stage, new_stage
from pytensor_convnet.kernels.cpu.strips import (
    NanWatch,
    first_greatest,
    padding_line,
    place_turn,
    place_windows,
    slide,
    turn_results,
)


@emitted(arrays=1)
def _greatest_of_columns(e, vector, cells, count, taps_at, taps, best_at):
    """For every cell of a band the greatest of a row of taps."""
    vector_bytes = item_bytes(vector) * vector.count
    with e.range(0, count * item_bytes(vector), VECTORS * vector_bytes) as t:
        places = [t + n * vector_bytes for n in range(VECTORS)]
        greatest = [Greatest(e, e.load(vector, cells + place)) for place in places]
        with e.range(1, taps) as j:
            offset = e.load(int64, taps_at + j * 8)
            for one, place in zip(greatest, places):
                one.challenge(e.load(vector, cells + place + offset))
        for one, place in zip(greatest, places):
            e.store(best_at + place, one.best.get())


@emitted(arrays=1)
def _greatest_of_rows(
    e, vector, best_at, pitch, first_row, y, end_y, rows, window_rows, stride_rows, top, out_columns, room, maxima_at
):
    """For every window of a band the greatest of its rows of taps."""
    item = item_bytes(vector)
    with e.range(y, end_y) as y_:
        start = y_ * stride_rows - top
        row, end_row = e.maximum(start, e.integer(0)), e.minimum(start + window_rows, rows)
        line, done = best_at + (row - first_row) * pitch, (y_ - y) * out_columns
        target = maxima_at + done * item
        with e.range(0, out_columns, vector.count) as x:
            at = line + x * item
            greatest = Greatest(e, e.load(vector, at))
            with e.range(1, end_row - row) as i:
                greatest.challenge(e.load(vector, at + i * pitch))
            store_within(e, target + x * item, x, out_columns, room - done, greatest.best.get())


@emitted(arrays=1, returns=True)
def _greatest_in_strips(e, vector, maxima_at, room, *geometry):
    """The greatest of every window; returns whether there was a NaN, for which it is none."""
    nans = NanWatch(e, vector)

    def pooling(strip):
        def of_taps(taps):
            nans.look(taps)
            return [first_greatest(e, taps)]

        def leave(rows, done, y):
            strip.store(maxima_at, done, room, first_greatest(e, [best for (best,) in rows]))

        return of_taps, leave

    slide(e, vector, pooling, *geometry)
    return nans.found(e)


def _signature(number):
    return types.Array(number, 4, "A", readonly=True), number[:, :, :, ::1], WINDOWS


@chunked(_signature, tuple((number,) for number in NUMBERS))
@part
def _maxima_of_integers(chunk, chunks, images, maxima, windows):
    """For each plane, for each window, for each tap: compare. Integers are rare: no vectors."""
    w = windows
    rows = images.shape[0] * images.shape[1] * w.out_rows
    for row in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
        plane, y = divmod(row, w.out_rows)
        b, c = divmod(plane, images.shape[1])
        top = y * w.stride_rows - w.top
        for x in range(w.out_columns):
            left = x * w.stride_columns - w.left
            best = images[b, c, max(top, 0), max(left, 0)]
            for i in range(max(top, 0), min(top + w.window_rows, w.rows)):
                for j in range(max(left, 0), min(left + w.window_columns, w.columns)):
                    best = max(best, images[b, c, i, j])
            maxima[b, c, y, x] = best


@chunked(_signature, otherwise=_maxima_of_integers)
@part
def _maxima_of_floats(chunk, chunks, images, maxima, windows):
    """For each plane, or group of planes, for each band: copy it, then the greatest of columns, and of rows."""
    w = windows
    plan = plan_bands(images, w)
    sorted_, together = plan.sorting, plan.planes.together
    taps = tap_offsets(plan)
    buffer = new_buffer(together * sorted_.plane + sorted_.phase, images, -np.inf)
    filling_at, cells = buffer_places(buffer)
    best_at = cells + together * sorted_.plane
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
        if direct and not _greatest_in_strips(
            images, turn.target, turn.room, turn.source, images.strides[1], images.strides[2], turn.units, turn.y,
            turn.end_y, w.rows, w.columns, w.window_rows, w.stride_rows, w.top, w.left, w.out_columns, padding_at,
            plan.ahead,
        ):  # fmt: skip
            unit = begin
        for number in range(unit, begin):
            band = place_band(number, plan, images.shape, w)
            copy_band(images, band.image, band.channel, band.first_row, band.rows, cells, sorted_, together, filling_at)
            for p in range(together):
                plane_at = cells + p * sorted_.plane
                _greatest_of_columns(images, plane_at, band.rows * plan.pitch, address_of(taps), plan.taps, best_at)
                plane = plane_number(band.image, band.channel, p, plan.planes, images.shape)
                at, room = place_windows(plane, band, turn, plan, w)
                _greatest_of_rows(
                    images, best_at, sorted_.pitch, band.first_row, band.y, band.end_y, w.rows, w.window_rows,
                    w.stride_rows, w.top, w.out_columns, room, turn.target + at * maxima.itemsize,
                )  # fmt: skip
        if streaming:
            leave_stage(stage, maxima, start, turn.first, turn.results, begin == end)
    keep_alive(stage)
    keep_alive(padding)
    keep_alive(taps)
    keep_alive(buffer)


@kernel
def max_pool2d_maxima(images, window, stride, padding, ignore_border):
    """The maxima of `max_pool2d`, where nobody needs the winners.

    Floor: images read once, maxima written once.
    """
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    maxima = new_array((images.shape[0], images.shape[1], windows.out_rows, windows.out_columns), images.dtype)
    if maxima.size:
        threads = useful_threads(maxima.size * windows.window_rows * windows.window_columns)
        _maxima_of_floats(threads, any_layout(images), maxima, windows)
    return maxima
