"""The gradient of max pooling on the CPU, and the gradient's gradient; both follow the winners.

    images[b, c, winning pixel of window (y, x)] += maps[b, c, y, x]       the gradient: scatter
    maps[b, c, y, x] = images[b, c, winning pixel of window (y, x)]        its gradient: gather

The scatter is computed backwards (see `spreading`): each pixel adds the maps of those windows, of all it lies in,
that it won.
"""

import itertools

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload

from pytensor_convnet.geometry import WINNER, WINNERS, ShapeError
from pytensor_convnet.kernels.cpu.bands import VECTORS, buffer_places, new_buffer
from pytensor_convnet.kernels.cpu.common_windows import is_common, spread_rows, taps_of_phases
from pytensor_convnet.kernels.cpu.detached import FLOATS, chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import int32, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pooled, useful_threads
from pytensor_convnet.kernels.cpu.row_copies import copy_beside, store_band
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
from pytensor_convnet.kernels.cpu.winner_fits import Fit, find_misfit, list_fits

_WINNER_DTYPES = ((types.uint8,), (types.int64,))
PAIRS = tuple(number + winner for number, winner in itertools.product(FLOATS, _WINNER_DTYPES))
"""The dtypes of maps and winners that meet."""


@emitted(arrays=2)
def _collect(
    e, vector, winners, maps_at, winners_at, cells, first, pitch, window_rows, window_columns, row_step, step,
    row_phase_bytes, phase_bytes, target,
):  # fmt: skip
    """For every cell of a band, in every phase, the sum of the maps that it won.

    The map of the first tap of a phase lies ``first`` cells after the pixel's; of those of later taps, each one less.
    """
    item, size, lanes = item_bytes(vector), item_bytes(winners), vector.count
    with e.range(0, row_step) as a, e.range(0, step) as p, e.range(0, cells, VECTORS * lanes) as cell:
        totals = [e.variable(e.constant(vector, 0)) for _ in range(VECTORS)]
        line = e.variable(cell + first)
        with e.range(a, window_rows, row_step) as i:
            at = e.variable(line.get())
            with e.range(p, window_columns, step) as j:
                here, number = at.get(), e.splat(winners, i * window_columns + j)
                for n, total in enumerate(totals):
                    hit = e.load(winners, winners_at + (here + n * lanes) * size).equals(number)
                    added = total.get() + e.load(vector, maps_at + (here + n * lanes) * item)
                    total.set(e.select(hit, added, total.get()))
                at.set(here - 1)
            line.set(line.get() - pitch)
        place = target + a * row_phase_bytes + p * phase_bytes
        for n, total in enumerate(totals):
            e.store(place + (cell + n * lanes) * item, total.get())


@emitted(arrays=2, returns=True)
def _collect_common(
    e, vector, winners, maps_at, maps_plane, maps_row, winners_at, winners_plane, winners_row, row_taps_at, *geometry,
):  # fmt: skip
    """`_collect` and `store_band` in one, for `COMMON` windows; returns whether all winners fit."""
    left, columns = geometry[6], geometry[9]
    misfits = e.variable(e.constant(ir.VectorType(int32, vector.count), 0))

    def spreading(cells):
        fit = Fit(e, winners, cells, misfits, row_taps_at, left, columns)
        taps = taps_of_phases(cells.common)

        def read(plane, number):
            found = cells.read(plane, number, winners_at, winners_plane, winners_row, e.constant(winners, 0))
            fit.look(number, found)
            values = cells.read(plane, number, maps_at, maps_plane, maps_row, e.constant(vector, 0))
            return {shift: (values[shift], found[shift]) for shift in values}

        def give(total, line, i, phase):
            for shift, j in taps[phase]:
                value, winner = line[shift]
                hit = winner.equals(e.constant(winners, i * cells.common.window + j))
                total = e.select(hit, value if total is None else total + value, 0 if total is None else total)
            return total

        return read, give

    spread_rows(e, vector, spreading, *geometry)
    none = misfits.get().equals(0)
    return e.select((~none).first_set() < vector.count, e.integer(0), 1)


def _grad_signature(number, winner):
    maps, winners = (types.Array(dtype, 4, "A", readonly=True) for dtype in (number, winner))
    return maps, winners, number[:, :, :, ::1], types.int64[::1], WINDOWS


@chunked(_grad_signature, PAIRS)
@part
def _spread_floats(chunk, chunks, maps, winners, images, misfits, windows):
    """For each plane, or group of planes, for each band: copy maps and winners, `_collect` each phase, store.

    For `COMMON` windows the last two are one. Images that no cache holds are written past the caches.
    """
    w, item = windows, maps.itemsize
    spread = plan_spread(maps, w)
    together, sorted_ = spread.planes.together, spread.images
    map_cells = spread.maps.phase // item
    zeros = new_buffer(together * spread.maps.plane + spread.row_step * sorted_.plane, maps, 0)
    numbers = new_buffer((map_cells + spread.pitch) * winners.itemsize, winners, 0)
    zeros_at, maps_at = buffer_places(zeros)
    no_numbers_at, winners_at = buffer_places(numbers)
    sums_at = maps_at + together * spread.maps.plane
    common = is_common(w, spread.row_step, sorted_.step)
    before, tap_sets = spread.maps.before, new_array((w.out_rows + w.out_columns,), np.int64)
    fits = list_fits(maps, address_of(tap_sets), w)
    spare = spare_memory(images)
    direct = spread.direct and winners.strides[3] == winners.itemsize
    streaming = is_streamed(images, spread.planes)
    stage = new_stage(images, turn_pixels(spread, w), streaming)
    units = spread.planes.groups * spread.bands
    begin, end = chunk * units // chunks, (chunk + 1) * units // chunks
    start = spread_room(0, begin, spread, w)
    while begin < end:
        turn, unit = place_spread_turn(images, stage, streaming, begin, end, spread, w), begin
        begin += turn.units
        if direct:
            band = place_spread(unit, spread, maps.shape, w)
            image, channel = band.image, band.channel
            if _collect_common(
                maps, winners, address_of(maps) + image * maps.strides[0] + channel * maps.strides[1], maps.strides[1],
                maps.strides[2], address_of(winners) + image * winners.strides[0] + channel * winners.strides[1],
                winners.strides[1], winners.strides[2], fits.row_taps_at, turn.units, 0, w.out_rows, band.step,
                w.window_rows, sorted_.step, w.left, band.row_phase, band.rows, w.columns, w.out_columns, spread.ahead,
                address_of(spare), turn.room, turn.target,
            ):  # fmt: skip
                unit = begin
        for band_number in range(unit, begin):
            band = place_spread(band_number, spread, maps.shape, w)
            line = band.maps_line * spread.pitch
            for p in range(together):
                clear_around(maps, maps_at + p * spread.maps.plane, spread, band)
            copy_maps(maps, maps_at + line * item, spread, band, zeros_at)
            for p in range(together):
                image, channel = band.image, band.channel
                if spread.planes.of_batch:
                    image += p
                else:
                    channel += p
                copy_beside(
                    maps, winners, image, channel, band.first_map, band.maps, winners_at + line * winners.itemsize,
                    before, spread.pitch, no_numbers_at,
                )  # fmt: skip
                numbers_at, end_map = winners_at + (line + before) * winners.itemsize, band.first_map + band.maps
                plane = image * maps.shape[1] + channel
                misfit = find_misfit(
                    maps, winners, numbers_at, spread.pitch * winners.itemsize, band.first_map, end_map, sorted_.step,
                    fits, w,
                )  # fmt: skip
                if misfit >= 0 and misfits[chunk] < 0:
                    misfits[chunk] = plane * w.out_rows * w.out_columns + misfit
                at, room = place_rows(plane, band, turn, spread, w)
                place, map_0 = turn.target + at * item, before - (band.step - spread.overhang) * spread.pitch
                if common:
                    _collect_common(
                        maps, winners, maps_at + p * spread.maps.plane + map_0 * item, 0, spread.pitch * item,
                        winners_at + map_0 * winners.itemsize, 0, spread.pitch * winners.itemsize,
                        fits.row_taps_at, 1,
                        band.first_map, end_map, band.step, w.window_rows, sorted_.step, w.left, band.row_phase,
                        band.rows, w.columns, w.out_columns, spread.ahead, address_of(spare), room, place,
                    )  # fmt: skip
                else:
                    _collect(
                        maps, winners, maps_at + p * spread.maps.plane, winners_at, band.steps * spread.pitch,
                        spread.overhang * spread.pitch + before, spread.pitch, w.window_rows, w.window_columns,
                        spread.row_step, sorted_.step, sorted_.plane, sorted_.phase, sums_at,
                    )  # fmt: skip
                    store_band(sums_at, sorted_, spread.row_step, band.row_phase, band.rows, room, images, place)
        if streaming:
            leave_stage(stage, images, start, turn.first, turn.pixels, begin == end)
    keep_alive(spare)
    keep_alive(stage)
    keep_alive(zeros)
    keep_alive(tap_sets)
    keep_alive(numbers)


@part
def _check_same_shape(winners, maps):
    """Raise `ShapeError` unless every value of maps of shape ``maps`` has its winner."""
    if winners != maps:
        raise ShapeError(WINNERS, winners[0], winners[1], winners[2], winners[3], maps[0], maps[1], maps[2], maps[3])


@part
def _check_misfits(misfits, winners, windows):
    """Raise `ShapeError` if a chunk found a winner that is none of its window's pixels."""
    for misfit in misfits:
        if misfit >= 0:
            plane, pixel = divmod(misfit, windows.out_rows * windows.out_columns)
            b, c = divmod(plane, winners.shape[1])
            y, x = divmod(pixel, windows.out_columns)
            winner = int(winners[b, c, y, x])
            raise ShapeError(WINNER, winner, windows.window_rows, windows.window_columns)


def _known_winners(winners):
    """``winners`` in a dtype that kernels are compiled for."""
    raise NotImplementedError


@overload(_known_winners)
def _choose_winners(winners):
    if (winners.dtype,) in _WINNER_DTYPES:
        return lambda winners: any_layout(winners)
    return lambda winners: any_layout(winners.astype(np.int64))


@kernel
def max_pool2d_grad(winners, maps, rows, columns, window, stride, padding):
    """Scatter ``maps`` to the pixels that won; see `reference.max_pool2d_grad`.

    Floor: winners and maps read once, images written once; `docs/cpu.md` has measured multiples of it.
    """
    shape = (winners.shape[0], winners.shape[1], int(rows), int(columns))
    windows = check_pooled(shape, winners.shape, window, stride, padding)
    _check_same_shape(winners.shape, maps.shape)
    images = new_array(shape, maps.dtype)
    if images.size:
        threads = useful_threads(images.size)
        misfits = np.empty(threads, np.int64)
        misfits[:] = -1
        _spread_floats(threads, any_layout(maps), _known_winners(winners), images, misfits, windows)
        _check_misfits(misfits, winners, windows)
    return images


# ------------------------------------------------------------------------------- the gradient's gradient


def _gather_signature(number, winner):
    images, winners = (types.Array(dtype, 4, "A", readonly=True) for dtype in (number, winner))
    return images, winners, number[:, :, :, ::1], types.int64[::1], WINDOWS


@chunked(_gather_signature, PAIRS, thorough=True)
@part
def _gather(chunk, chunks, images, winners, maps, misfits, windows):
    """For each plane, for each window: look the pixel up. Second derivatives are rare: no vectors."""
    w = windows
    channels = maps.shape[1]
    planes = maps.shape[0] * channels
    taps = np.arange(w.window_rows * w.window_columns)
    rows_of_tap, columns_of_tap = taps // w.window_columns, taps % w.window_columns
    for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
        b, c = divmod(plane, channels)
        for y in range(w.out_rows):
            for x in range(w.out_columns):
                winner = np.int64(winners[b, c, y, x])
                known = winner >= 0 and winner < taps.size
                row = y * w.stride_rows - w.top + rows_of_tap[winner if known else 0]
                column = x * w.stride_columns - w.left + columns_of_tap[winner if known else 0]
                if known and row >= 0 and row < w.rows and column >= 0 and column < w.columns:
                    maps[b, c, y, x] = images[b, c, row, column]
                else:
                    misfits[chunk] = (plane * w.out_rows + y) * w.out_columns + x


@kernel
def max_pool2d_gather(images, winners, window, stride, padding):
    """Pick ``images`` at the pixels that won; see `reference.max_pool2d_gather`.

    For each plane, for each window: ``maps[b, c, y, x] = images[b, c, winning pixel]``.
    """
    windows = check_pooled(images.shape, winners.shape, window, stride, padding)
    maps = new_array(winners.shape, images.dtype)
    if maps.size:
        threads = useful_threads(images.size)
        misfits = np.empty(threads, np.int64)
        misfits[:] = -1
        _gather(threads, any_layout(images), _known_winners(winners), maps, misfits, windows)
        _check_misfits(misfits, winners, windows)
    return maps
