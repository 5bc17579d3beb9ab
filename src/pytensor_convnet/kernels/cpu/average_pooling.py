"""Sum and average pooling of bc01 images on the CPU.

    maps[b, c, y, x] = sum over i, j of  images[b, c, y * stride + i - top, x * stride + j - left] / divisor(y, x)

Padding adds nothing to the sum. Whether it counts in the divisor is the mode; see `MODES`. A sum over a window is a
sum over its rows of sums over its columns.
"""

import functools
import operator

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
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, int64, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pool, useful_threads
from pytensor_convnet.kernels.cpu.rectifiers import rectified
from pytensor_convnet.kernels.cpu.row_copies import copy_band, store_within
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


def _sum_of_taps(e, vector, source, cells, taps_at, taps, target, of_pixels):
    item, vector_bytes = item_bytes(vector), item_bytes(vector) * vector.count
    with e.range(0, cells * item, VECTORS * vector_bytes) as t:
        totals = [e.variable(e.constant(vector, 0)) for _ in range(VECTORS)]
        with e.range(0, taps) as tap:
            at = source + t + e.load(int64, taps_at + tap * 8)
            for n, total in enumerate(totals):
                total.set(total.get() + of_pixels(e.load(vector, at + n * vector_bytes)))
        for n, total in enumerate(totals):
            e.store(target + t + n * vector_bytes, total.get())


@emitted(arrays=1)
def sum_taps(e, vector, source, cells, taps_at, taps, target):
    """For every cell of a band the sum of its taps; a tap is so many bytes after the cell."""
    _sum_of_taps(e, vector, source, cells, taps_at, taps, target, lambda pixels: pixels)


@emitted(arrays=1)
def _sum_rectified_taps(e, vector, bias_at, source, cells, taps_at, taps, target):
    """The same of taps that are biased and rectified."""
    bias = e.splat(vector, e.load(vector.element, bias_at))
    _sum_of_taps(e, vector, source, cells, taps_at, taps, target, lambda pixels: rectified(e, pixels, bias))


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


class Shares:
    """What sums of windows are multiplied by: one divided by their heights and each of some vectors of widths.

    They are divided when another height comes, for that takes ten times as long as to multiply. With the divisors of
    `COMMON` windows the product of what can be divided exactly is exact.
    """

    def __init__(self, e, widths):
        self._e, self._widths = e, widths
        self._height = e.variable(e.constant(widths[0].type.element, 0))
        self._shares = [e.variable(width) for width in widths]

    def of_height(self, place):
        """Those for the height at an address."""
        e, vector = self._e, self._widths[0].type
        height = e.load(vector.element, place)
        with e.when(~height.equals(self._height.get())):
            self._height.set(height)
            for share, width in zip(self._shares, self._widths):
                share.set(e.constant(vector, 1) / (e.splat(vector, height) * width))
        return [share.get() for share in self._shares]


def _strips(e, vector, pixels_of, maps_at, heights_at, widths_at, room, geometry):
    """The sum of every window, divided; ``pixels_of(strip)`` is a function of what is read."""

    def pooling(strip):
        shares, of_pixels = Shares(e, [strip.of_windows(widths_at)]), pixels_of(strip)

        def of_taps(taps):
            return [functools.reduce(operator.add, map(of_pixels, taps))]

        def leave(rows, done, y):
            total = functools.reduce(operator.add, (row for (row,) in rows)) + 0  # as 0 + -0 is 0
            (share,) = shares.of_height(heights_at + y * item_bytes(vector))
            strip.store(maps_at, done, room, total * share)

        return of_taps, leave

    slide(e, vector, pooling, *geometry)


@emitted(arrays=1)
def _average_in_strips(e, vector, maps_at, heights_at, widths_at, room, *geometry):
    """The average of every window."""
    _strips(e, vector, lambda strip: lambda pixels: pixels, maps_at, heights_at, widths_at, room, geometry)


@emitted(arrays=1)
def _average_rectified_in_strips(e, vector, biases_at, maps_at, heights_at, widths_at, room, *geometry):
    """The same of pixels that are biased and rectified."""

    def pixels_of(strip):
        biases = strip.of_planes(biases_at)
        return lambda pixels: rectified(e, pixels, biases)

    _strips(e, vector, pixels_of, maps_at, heights_at, widths_at, room, geometry)


def _signature(number):
    vector = number[::1]
    return types.Array(number, 4, "A", readonly=True), vector, number[:, :, :, ::1], vector, vector, WINDOWS


@chunked(_signature)
@part
def average_windows(chunk, chunks, images, biases, maps, heights, widths, windows):
    """For each plane, or group of planes, for each band: copy it, sum along rows, sum the rows and divide.

    With biases, one for each channel, images are biased and rectified as they are summed. Padding is then -inf.
    """
    w, channels, biased = windows, images.shape[1], biases.size > 0
    plan, filling = plan_bands(images, w), -np.inf if biased else 0.0
    sorted_, together = plan.sorting, plan.planes.together
    taps = tap_offsets(plan)
    buffer = new_buffer(together * sorted_.plane + sorted_.phase, images, filling)
    filling_at, cells = buffer_places(buffer)
    sums_at = cells + together * sorted_.plane
    direct, streaming = plan.direct, is_streamed(maps, plan.planes)
    padding = padding_line(images, direct, filling)
    padding_at, _ = buffer_places(padding)
    stage = new_stage(maps, turn_results(plan, w), streaming)
    units = plan.planes.groups * plan.bands
    begin, end = chunk * units // chunks, (chunk + 1) * units // chunks
    start = room_after(0, begin, plan, w)
    while begin < end:
        turn, unit = place_turn(images, maps, stage, streaming, begin, end, plan, w), begin
        begin += turn.units
        if direct:
            places = turn.target, address_of(heights), address_of(widths), turn.room
            geometry = (
                turn.source, images.strides[1], images.strides[2], turn.units, turn.y, turn.end_y, w.rows, w.columns,
                w.window_rows, w.stride_rows, w.top, w.left, w.out_columns, padding_at, plan.ahead,
            )  # fmt: skip
            if biased:
                channel = turn.first // (w.out_rows * w.out_columns) % channels
                _average_rectified_in_strips(images, address_of(biases) + channel * biases.itemsize, *places, *geometry)
            else:
                _average_in_strips(images, *places, *geometry)
            unit = begin
        for number in range(unit, begin):
            band = place_band(number, plan, images.shape, w)
            copy_band(images, band.image, band.channel, band.first_row, band.rows, cells, sorted_, together, filling_at)
            for p in range(together):
                plane = plane_number(band.image, band.channel, p, plan.planes, images.shape)
                at, room = place_windows(plane, band, turn, plan, w)
                summed = cells + p * sorted_.plane, band.rows * plan.pitch, address_of(taps), plan.taps, sums_at
                if biased:
                    _sum_rectified_taps(images, address_of(biases) + plane % channels * biases.itemsize, *summed)
                else:
                    sum_taps(images, *summed)
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


@part
def pool_averages(images, biases, window, stride, padding, ignore_border, mode):
    """The sum or average of every window, with biases of images that are biased and rectified."""
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    maps = new_array((images.shape[0], images.shape[1], windows.out_rows, windows.out_columns), images.dtype)
    if maps.size:
        heights, widths = divisors(windows, mode, maps)
        threads = useful_threads(maps.size * windows.window_rows * windows.window_columns)
        average_windows(threads, any_layout(images), biases, maps, heights, widths, windows)
    return maps


@kernel
def average_pool2d(images, window, stride, padding, ignore_border, mode):
    """The sum or average of every window; ``mode`` is a number of `MODES`; see `reference.average_pool2d`.

    Floor: images read once, maps written once; `docs/cpu.md` has measured multiples of it.
    """
    return pool_averages(images, new_array((0,), images.dtype), window, stride, padding, ignore_border, mode)
