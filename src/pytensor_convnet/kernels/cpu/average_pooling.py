"""Sum and average pooling of bc01 images on the CPU, and its gradient.

    maps[b, c, y, x] = sum over i, j of  images[b, c, y * stride + i - top, x * stride + j - left] / divisor(y, x)

Padding adds nothing to the sum. Whether it counts in the divisor is the mode; see `MODES`. A sum over a window is a
sum over its rows of sums over its columns, in either direction: the gradient spreads maps along rows first.
"""

import functools
import operator

import numpy as np
from llvmlite import ir
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
from pytensor_convnet.kernels.cpu.common_windows import is_common, spread_rows
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, int64, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pool, check_pooled, useful_threads
from pytensor_convnet.kernels.cpu.row_copies import copy_band, store_band, store_within
from pytensor_convnet.kernels.cpu.spreading import (
    clear_around,
    copy_maps,
    place_rows,
    place_spread,
    place_spread_turn,
    plan_spread,
    spread_room,
    turn_pixels,
    zeros_line,
)
from pytensor_convnet.kernels.cpu.stages import is_streamed, leave_stage, new_stage
from pytensor_convnet.kernels.cpu.strips import padding_line, place_turn, place_windows, slide, turn_results

MODES = {"sum": 0, "average_inc_pad": 1, "average_exc_pad": 2}
"""The number of each mode: compiled code takes the number, as strings would triple its compilation time."""

_SUM, _INCLUDE_PADDING = MODES["sum"], MODES["average_inc_pad"]


# -------------------------------------------------------------------------------------------- divisors


@part
def _extents(count, length, window, stride, before, after, mode, like):
    """For each window along one axis the length that the divisor counts: of the image, or with padding.

    As numbers of ``like``'s dtype, and ones after them to fill a vector.
    """
    extents = np.ones(count + VECTOR_BYTES // like.itemsize, like.dtype)
    for y in range(count):
        start = y * stride - before
        if mode == _INCLUDE_PADDING:
            extents[y] = min(start + window, length + after) - start
        elif mode != _SUM:
            extents[y] = min(start + window, length) - max(start, 0)
    return extents


@part
def divisors(windows, mode, like):
    """Two vectors; the divisor of window ``(y, x)`` is ``heights[y] * widths[x]``."""
    w = windows
    heights = _extents(w.out_rows, w.rows, w.window_rows, w.stride_rows, w.top, w.bottom, mode, like)
    widths = _extents(w.out_columns, w.columns, w.window_columns, w.stride_columns, w.left, w.right, mode, like)
    return heights, widths


# --------------------------------------------------------------------------------------------- forward


@emitted(arrays=1)
def _sum_taps(e, vector, source, cells, taps_at, taps, target):
    """For every cell of a band the sum of its taps; a tap is so many bytes after the cell."""
    item, vector_bytes = item_bytes(vector), item_bytes(vector) * vector.count
    with e.range(0, cells * item, VECTORS * vector_bytes) as t:
        totals = [e.variable(e.constant(vector, 0)) for _ in range(VECTORS)]
        with e.range(0, taps) as tap:
            at = source + t + e.load(int64, taps_at + tap * 8)
            for n, total in enumerate(totals):
                total.set(total.get() + e.load(vector, at + n * vector_bytes))
        for n, total in enumerate(totals):
            e.store(target + t + n * vector_bytes, total.get())


@emitted(arrays=1)
def _average_rows(
    e, vector, sums_at, pitch, first_row, y, end_y, rows, window_rows, stride_rows, top, out_columns, room,
    heights_at, widths_at, maps_at,
):  # fmt: skip
    """For every window of a band the sum of its rows' sums, divided."""
    item = item_bytes(vector)
    with e.range(y, end_y) as y_:
        start = y_ * stride_rows - top
        row, end_row = e.maximum(start, e.integer(0)), e.minimum(start + window_rows, rows)
        done = (y_ - y) * out_columns
        height = e.splat(vector, e.load(vector.element, heights_at + y_ * item))
        with e.range(0, out_columns, vector.count) as x:
            at = sums_at + (row - first_row) * pitch + x * item
            total = e.variable(e.load(vector, at))
            with e.range(1, end_row - row) as i:
                total.set(total.get() + e.load(vector, at + i * pitch))
            average = total.get() / (height * e.load(vector, widths_at + x * item))
            store_within(e, maps_at + (done + x) * item, x, out_columns, room - done, average)


@emitted(arrays=1)
def _average_in_strips(e, vector, maps_at, heights_at, widths_at, room, *geometry):
    """The sum of every window, divided."""

    def pooling(strip):
        widths = strip.of_windows(widths_at)

        def of_taps(taps):
            return [functools.reduce(operator.add, taps)]

        def leave(rows, done, y):
            total = functools.reduce(operator.add, (row for (row,) in rows)) + 0  # as 0 + -0 is 0
            height = e.splat(vector, e.load(vector.element, heights_at + y * item_bytes(vector)))
            strip.store(maps_at, done, room, total / (height * widths))

        return of_taps, leave

    slide(e, vector, pooling, *geometry)


def _signature(number):
    vector = number[::1]
    return types.Array(number, 4, "A", readonly=True), number[:, :, :, ::1], vector, vector, WINDOWS


@chunked(_signature)
@part
def average_windows(chunk, chunks, images, maps, heights, widths, windows):
    """For each plane, or group of planes, for each band: copy it, sum along rows, sum the rows and divide."""
    w = windows
    plan = plan_bands(images, w)
    sorted_, together = plan.sorting, plan.planes.together
    taps = tap_offsets(plan)
    buffer = new_buffer(together * sorted_.plane + sorted_.phase, images, 0)
    zeros_at, cells = buffer_places(buffer)
    sums_at = cells + together * sorted_.plane
    direct, streaming = plan.direct, is_streamed(maps, plan.planes)
    padding = padding_line(images, direct, 0)
    padding_at, _ = buffer_places(padding)
    stage = new_stage(maps, turn_results(plan, w), streaming)
    units = plan.planes.groups * plan.bands
    begin, end = chunk * units // chunks, (chunk + 1) * units // chunks
    start = room_after(0, begin, plan, w)
    while begin < end:
        turn, unit = place_turn(images, maps, stage, streaming, begin, end, plan, w), begin
        begin += turn.units
        if direct:
            _average_in_strips(
                images, turn.target, address_of(heights), address_of(widths), turn.room, turn.source,
                images.strides[1], images.strides[2], turn.units, turn.y, turn.end_y, w.rows, w.columns,
                w.window_rows, w.stride_rows, w.top, w.left, w.out_columns, padding_at,
            )  # fmt: skip
            unit = begin
        for number in range(unit, begin):
            band = place_band(number, plan, images.shape, w)
            copy_band(images, band.image, band.channel, band.first_row, band.rows, cells, sorted_, together, zeros_at)
            for p in range(together):
                plane = plane_number(band.image, band.channel, p, plan.planes, images.shape)
                at, room = place_windows(plane, band, turn, plan, w)
                plane_at, count = cells + p * sorted_.plane, band.rows * plan.pitch
                _sum_taps(images, plane_at, count, address_of(taps), plan.taps, sums_at)
                _average_rows(
                    images, sums_at, sorted_.pitch, band.first_row, band.y, band.end_y, w.rows, w.window_rows,
                    w.stride_rows, w.top, w.out_columns, room, address_of(heights), address_of(widths),
                    turn.target + at * maps.itemsize,
                )  # fmt: skip
        if streaming:
            leave_stage(stage, maps, start, turn.first, turn.results, begin == end)
    keep_alive(stage)
    keep_alive(padding)
    keep_alive(taps)
    keep_alive(buffer)


@kernel
def average_pool2d(images, window, stride, padding, ignore_border, mode):
    """The sum or average of every window; ``mode`` is a number of `MODES`; see `reference.average_pool2d`.

    Floor: images read once, maps written once; `docs/cpu.md` has measured multiples of it.
    """
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    maps = new_array((images.shape[0], images.shape[1], windows.out_rows, windows.out_columns), images.dtype)
    if maps.size:
        heights, widths = divisors(windows, mode, maps)
        threads = useful_threads(maps.size * windows.window_rows * windows.window_columns)
        average_windows(threads, any_layout(images), maps, heights, widths, windows)
    return maps


# ------------------------------------------------------------------------------------------- gradient


@emitted(arrays=1)
def _divide_lines(e, vector, lines, target, pitch, y, end_y, out_columns, heights_at, widths_at):
    """Divide a band's maps. Zeros follow each row; rows are written in order, so they overwrite no other."""
    item, lanes = item_bytes(vector), vector.count
    numbers = e.lane_numbers(ir.VectorType(int64, lanes))
    with e.range(y, end_y) as y_:
        height = e.splat(vector, e.load(vector.element, heights_at + y_ * item))
        with e.range(0, out_columns, lanes) as x:
            offset = (y_ - y) * pitch + x * item
            quotient = e.load(vector, lines + offset) / (height * e.load(vector, widths_at + x * item))
            e.store(target + offset, e.select(numbers < out_columns - x, quotient, 0))


@emitted(arrays=1)
def _spread_common(e, vector, maps_at, maps_plane, maps_row, heights_at, widths_at, *geometry):
    """The sums of the maps that reach each pixel, divided when they are read, for `COMMON` windows."""

    def reader(cells):
        widths = cells.of_columns(widths_at, e.constant(vector, 1))

        def read(number):
            values = cells.read(cells.lines(number, maps_at, maps_plane, maps_row), e.constant(vector, 0))
            place = e.select(cells.has_line(number), heights_at + number * item_bytes(vector), heights_at)
            height = e.splat(vector, e.load(vector.element, place))
            return {shift: (value / (height * widths[shift]),) for shift, value in values.items()}

        return read

    def add(total, values, tap):
        return values[0] if total is None else total + values[0]

    spread_rows(e, vector, reader, add, *geometry)


@part
def _spread_taps(overhang, cell_bytes):
    """How far, in bytes, the maps that reach a pixel along one axis lie after its cell, the tap of its phase first."""
    offsets = np.empty(overhang + 1, np.int64)
    for m in range(overhang + 1):
        offsets[m] = (overhang - m) * cell_bytes
    return offsets


@part
def _taps_of_phase(phase, window, step):
    return max(0, (window - phase + step - 1) // step)


@chunked(_signature)
@part
def spread_averages(chunk, chunks, maps, images, heights, widths, windows):
    """For each plane, or group of planes, for each band: copy and divide maps, spread them along and over rows."""
    w, item = windows, maps.itemsize
    spread = plan_spread(maps, w)
    together, sorted_, pitch = spread.planes.together, spread.images, spread.maps.pitch
    column_taps, row_taps = _spread_taps(spread.maps.before, item), _spread_taps(spread.overhang, pitch)
    maps_plane = spread.maps.plane
    buffer = new_buffer((together + 1 + sorted_.step) * maps_plane + spread.row_step * sorted_.plane, maps, 0)
    zeros_at, maps_at = buffer_places(buffer)
    shares_at = maps_at + together * maps_plane
    rows_at = shares_at + maps_plane
    sums_at = rows_at + sorted_.step * maps_plane
    common, before = is_common(w, spread.row_step, sorted_.step), spread.maps.before
    no_maps = zeros_line(spread, maps)
    _, no_maps_at = buffer_places(no_maps)
    no_maps_at += 8 * before
    streaming = is_streamed(images, spread.planes)
    stage = new_stage(images, turn_pixels(spread, w), streaming)
    units = spread.planes.groups * spread.bands
    begin, end = chunk * units // chunks, (chunk + 1) * units // chunks
    start = spread_room(0, begin, spread, w)
    while begin < end:
        turn, unit = place_spread_turn(images, stage, streaming, begin, end, spread, w), begin
        begin += turn.units
        if spread.direct:
            band = place_spread(unit, spread, maps.shape, w)
            _spread_common(
                maps, address_of(maps) + band.image * maps.strides[0] + band.channel * maps.strides[1], maps.strides[1],
                maps.strides[2], address_of(heights), address_of(widths), turn.units, 0, w.out_rows, band.step,
                w.window_rows, sorted_.step, w.left, band.row_phase, band.rows, w.columns, w.out_columns, no_maps_at,
                turn.room, turn.target,
            )  # fmt: skip
            unit = begin
        for number in range(unit, begin):
            band = place_spread(number, spread, maps.shape, w)
            copy_maps(maps, maps_at, spread, band, zeros_at)
            for p in range(together):
                plane = plane_number(band.image, band.channel, p, spread.planes, maps.shape)
                at, room = place_rows(plane, band, turn, spread, w)
                place, lines_at = turn.target + at * item, maps_at + p * maps_plane + before * item
                if common:
                    _spread_common(
                        maps, lines_at - band.first_map * pitch, 0, pitch, address_of(heights), address_of(widths), 1,
                        band.first_map, band.first_map + band.maps, band.step, w.window_rows, sorted_.step, w.left,
                        band.row_phase, band.rows, w.columns, w.out_columns, no_maps_at, room, place,
                    )  # fmt: skip
                    continue
                clear_around(maps, shares_at, spread, band)
                _divide_lines(
                    maps, lines_at, shares_at + band.maps_line * pitch + before * item, pitch, band.first_map,
                    band.first_map + band.maps, w.out_columns, address_of(heights), address_of(widths),
                )  # fmt: skip
                for q in range(sorted_.step):
                    taps = _taps_of_phase(q, w.window_columns, sorted_.step)
                    cells, row_at = (band.steps + spread.overhang) * spread.pitch, rows_at + q * maps_plane
                    _sum_taps(maps, shares_at, cells, address_of(column_taps), taps, row_at)
                    for a in range(spread.row_step):
                        taps = _taps_of_phase(a, w.window_rows, spread.row_step)
                        target = sums_at + a * sorted_.plane + q * sorted_.phase
                        _sum_taps(maps, row_at, band.steps * spread.pitch, address_of(row_taps), taps, target)
                store_band(sums_at, sorted_, spread.row_step, band.row_phase, band.rows, room, images, place)
        if streaming:
            leave_stage(stage, images, start, turn.first, turn.pixels, begin == end)
    keep_alive(no_maps)
    keep_alive(stage)
    keep_alive(column_taps)
    keep_alive(row_taps)
    keep_alive(buffer)


@kernel
def average_pool2d_grad(maps, rows, columns, window, stride, padding, mode):
    """Spread ``maps`` over their windows; ``mode`` is a number of `MODES`; see `reference.average_pool2d_grad`.

    Floor: maps read once, images written once; `docs/cpu.md` has measured multiples of it.
    """
    shape = (maps.shape[0], maps.shape[1], int(rows), int(columns))
    windows = check_pooled(shape, maps.shape, window, stride, padding)
    images = new_array(shape, maps.dtype)
    if images.size:
        heights, widths = divisors(windows, mode, images)
        threads = useful_threads(images.size)
        spread_averages(threads, any_layout(maps), images, heights, widths, windows)
    return images
