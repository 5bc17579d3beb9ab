"""The gradient of sum and average pooling of bc01 images on the CPU.

    images[b, c, ...] = sum over windows (y, x) that hold the pixel of  maps[b, c, y, x] / divisor(y, x)

With the divisors of `average_pooling`. As there a window is summed along rows first, maps are spread along rows first.
"""

import functools
import operator
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from pytensor_convnet.kernels.cpu.average_pooling import Shares, divisors, sum_taps
from pytensor_convnet.kernels.cpu.bands import (
    buffer_places,
    new_buffer,
    plane_number,
)
from pytensor_convnet.kernels.cpu.common_windows import is_common, spread_rows, taps_of_phases
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, leaf_part, part
from pytensor_convnet.kernels.cpu.llvm import int64, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pooled, useful_threads
from pytensor_convnet.kernels.cpu.rectifiers import mute_planes
from pytensor_convnet.kernels.cpu.row_copies import store_band
from pytensor_convnet.kernels.cpu.spreading import (
    clear_around,
    copy_maps,
    place_rows,
    place_spread,
    place_spread_turn,
    plan_spread,
    spare_memory,
    spread_room,
    turn_pixels,
)
from pytensor_convnet.kernels.cpu.stages import is_streamed, leave_stage, new_stage


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

    def spreading(cells):
        widths, taps = cells.of_columns(widths_at, e.constant(vector, 1)), taps_of_phases(cells.common)
        shares = Shares(e, list(widths.values()))

        def read(plane, number):
            values = cells.read(plane, number, maps_at, maps_plane, maps_row, e.constant(vector, 0))
            shares_here = dict(zip(widths, shares.of_height(heights_at + number * item_bytes(vector))))
            return [
                functools.reduce(operator.add, (values[shift] * shares_here[shift] for shift, _ in phase))
                for phase in taps
            ]

        def give(total, line, i, phase):
            return line[phase] if total is None else total + line[phase]

        return read, give

    spread_rows(e, vector, spreading, *geometry)


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


class Muting(NamedTuple):
    """What gradients that were spread are muted by, and where they are added up; both empty for neither."""

    images: np.ndarray  # with contiguous rows
    biases: np.ndarray  # a number for each channel
    sums: np.ndarray  # for each chunk, each channel and each lane


@part
def no_muting(images):
    """Gradients stay as they are."""
    return Muting(any_layout(images), new_array((0,), images.dtype), np.empty((0, 0, 0), np.float64))


@leaf_part
def _mute(images, biases, sums, chunk, plane, planes, first_row, rows, target):
    """Mute and add up rows of neighbouring planes of gradients, that are at ``target``."""
    image, channel = divmod(plane, images.shape[1])
    row_bytes = images.shape[3] * images.itemsize
    source = address_of(images) + image * images.strides[0] + channel * images.strides[1]
    mute_planes(
        images, planes, source + first_row * images.strides[2], images.strides[1], images.strides[2], rows,
        images.shape[3], address_of(biases) + channel * biases.itemsize, target, rows * row_bytes, row_bytes, target,
        address_of(sums) + chunk * sums.strides[0] + channel * sums.strides[1],
    )  # fmt: skip


def _grad_signature(number):
    images, vector = types.Array(number, 4, "A", readonly=True), number[::1]
    muting = types.NamedTuple((images, vector, types.float64[:, :, ::1]), Muting)
    return images, number[:, :, :, ::1], muting, vector, vector, WINDOWS


@chunked(_grad_signature)
@part
def spread_averages(chunk, chunks, maps, images, muting, heights, widths, windows):
    """For each plane, or group of planes, for each band: copy and divide maps, spread them along and over rows.

    What was spread is then muted, while it is in cache.
    """
    w, item = windows, maps.itemsize
    shown, biases, sums = muting
    muted = biases.size > 0
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
    spare = spare_memory(images)
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
                w.window_rows, sorted_.step, w.left, band.row_phase, band.rows, w.columns, w.out_columns, spread.ahead,
                address_of(spare), turn.room, turn.target,
            )  # fmt: skip
            if muted:
                _mute(shown, biases, sums, chunk, turn.plane, turn.units, band.first_row, band.rows, turn.target)
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
                        band.row_phase, band.rows, w.columns, w.out_columns, spread.ahead, address_of(spare), room,
                        place,
                    )  # fmt: skip
                else:
                    clear_around(maps, shares_at, spread, band)
                    _divide_lines(
                        maps, lines_at, shares_at + band.maps_line * pitch + before * item, pitch, band.first_map,
                        band.first_map + band.maps, w.out_columns, address_of(heights), address_of(widths),
                    )  # fmt: skip
                    for q in range(sorted_.step):
                        taps = _taps_of_phase(q, w.window_columns, sorted_.step)
                        cells, row_at = (band.steps + spread.overhang) * spread.pitch, rows_at + q * maps_plane
                        sum_taps(maps, shares_at, cells, address_of(column_taps), taps, row_at)
                        for a in range(spread.row_step):
                            taps = _taps_of_phase(a, w.window_rows, spread.row_step)
                            target = sums_at + a * sorted_.plane + q * sorted_.phase
                            sum_taps(maps, row_at, band.steps * spread.pitch, address_of(row_taps), taps, target)
                    store_band(sums_at, sorted_, spread.row_step, band.row_phase, band.rows, room, images, place)
                if muted:
                    _mute(shown, biases, sums, chunk, plane, 1, band.first_row, band.rows, place)
        if streaming:
            leave_stage(stage, images, start, turn.first, turn.pixels, begin == end)
    keep_alive(spare)
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
        spread_averages(threads, any_layout(maps), images, no_muting(maps), heights, widths, windows)
    return images
