"""The gradient of a correlation with respect to its filters.

It sums over images and positions, so here the vectors' lanes are what is summed: 16 (float32) or 8 images
meet in one register, and are added up at the end of a band of rows.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.checks import check_maps
from pytensor_convnet.kernels.cpu.detached import chunked, detached, inner_kernel
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    TILING,
    block_filters,
    ceil_div,
    choose_tiling,
    correlation_axis,
    inputs_read,
    new_runs,
    new_tiles,
    pack_row,
    place_tiles,
    plain_axis,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS, filter_grad_block
from pytensor_convnet.kernels.cpu.simd import VECTOR_BYTES

_BAND_POSITIONS = 72
"""Output positions that a register block should sum over: enough to pay for adding up its lanes, few enough
for the maps of its filters to stay in the first-level cache."""

_BAND_BYTES = 384 * 1024
"""Packed images, and as much of packed maps, that stay in a core's second-level cache."""

_TASKS = 32
"""Pieces into which the work is cut. Fixed, so that the order of summation, and with it the result, does not
depend on the number of threads."""


class Blocking(NamedTuple):
    """How one group's gradient is cut into blocks, a tile's rows into bands, and all bands into slices."""

    groups: int
    filters: int
    channels: int
    filter_blocks: int
    channel_blocks: int
    bands: int
    slices: int


@inner_kernel
def _choose_blocking(groups, filters, channels, rows, columns, tiling):
    """Blocks whose packed bands stay in cache, and enough slices to make `_TASKS` tasks."""
    bands = ceil_div(tiling.rows, max(1, _BAND_POSITIONS // tiling.columns))
    band_rows = ceil_div(tiling.rows, bands)
    image_bytes = inputs_read(rows, band_rows) * inputs_read(columns, tiling.columns) * VECTOR_BYTES
    map_bytes = band_rows * tiling.columns * VECTOR_BYTES
    channel_blocks = ceil_div(channels, max(1, _BAND_BYTES // image_bytes))
    filter_blocks = ceil_div(filters, max(MOST_FILTERS, _BAND_BYTES // map_bytes))
    blocks = groups * filter_blocks * channel_blocks
    slices = max(1, min(tiling.lane_groups * bands, _TASKS // blocks))
    return Blocking(groups, filters, channels, filter_blocks, channel_blocks, bands, slices)


@inner_kernel(inline="always")
def _sum_band(
    images, used, maps, map_step, taps, positions, partial, filters, channels, band_rows, rows, columns, tiling
):  # fmt: skip
    """Add to a block of the gradient what one packed band contributes::

        for f in range(filters):
            for row tap, channel, column tap:
                for y in range(band_rows): for x in range(tiling.columns): for lane in range(lanes):
                    partial[row tap, channel, column tap, f] += (
                        maps[f, y, x, lane] * images[channel, y + row tap, x + column tap, lane]
                    )

    Row taps leave out the rows where they meet only padding. Floor: a multiply-add of a vector for each trip of the
    nest but the lanes, two a cycle; a register block of F filters and X taps loads F + X vectors for F * X of them.
    Measured on one core of a Zen 5 EPYC, float32, as a fraction of the 273 GFLOP/s of a register block: 0.67 for
    cifar2, 0.84 for cifar3, 0.58 for alex1, 0.54 for lenet2, 0.15 for lenet1.
    """
    row_size = channels * columns.taps.size
    first = 0
    while first < filters:
        count = block_filters(filters - first)
        tap_blocks = ceil_div(row_size, MOST_COLUMNS[count])
        for r in range(rows.taps.size):
            offset = rows.offsets[r] - rows.first
            start, stop = 0, band_rows
            while start < stop and not used[start * rows.in_step + offset]:
                start += 1
            while start < stop and not used[(stop - 1) * rows.in_step + offset]:
                stop -= 1
            for c in range(tap_blocks):
                tap = c * row_size // tap_blocks
                filter_grad_block(
                    count, (c + 1) * row_size // tap_blocks - tap,
                    images, taps, r * row_size + tap, positions, start * tiling.columns, stop * tiling.columns,
                    maps, first * map_step, map_step,
                    partial, (r * row_size + tap) * filters + first, filters,
                )  # fmt: skip
        first += count


@inner_kernel(inline="always")
def _sum_task(task, images, maps, partial, packed_images, packed_maps, rows, columns, tiling, blocking):
    """One slice of all bands, for one block of filters and channels; ``partial`` is set to their sum."""
    block, part = divmod(task, blocking.slices)
    block, channel_block = divmod(block, blocking.channel_blocks)
    group, filter_block = divmod(block, blocking.filter_blocks)
    first_filter = filter_block * blocking.filters // blocking.filter_blocks
    filters = (filter_block + 1) * blocking.filters // blocking.filter_blocks - first_filter
    first_channel = channel_block * blocking.channels // blocking.channel_blocks
    channels = (channel_block + 1) * blocking.channels // blocking.channel_blocks - first_channel

    lanes = VECTOR_BYTES // images.itemsize
    width = inputs_read(columns, tiling.columns)
    most_rows = ceil_div(tiling.rows, blocking.bands)
    most_in_rows = inputs_read(rows, most_rows)
    image_step, map_step = most_in_rows * width * lanes, most_rows * tiling.columns * lanes
    map_rows, map_columns = plain_axis(maps.shape[2]), plain_axis(maps.shape[3])
    tiles, runs, used = new_tiles(lanes), new_runs(lanes), np.empty(most_in_rows, np.bool_)

    taps = np.empty((rows.taps.size, channels, columns.taps.size), np.int64)
    for r in range(rows.taps.size):
        for channel in range(channels):
            for c in range(columns.taps.size):
                row, column = rows.offsets[r] - rows.first, columns.offsets[c] - columns.first
                taps[r, channel, c] = channel * image_step + (row * width + column) * lanes
    positions = np.empty((most_rows, tiling.columns), np.int64)
    for y in range(most_rows):
        for x in range(tiling.columns):
            positions[y, x] = (y * rows.in_step * width + x * columns.in_step) * lanes

    partial[:] = 0
    units = tiling.lane_groups * blocking.bands
    for unit in range(part * units // blocking.slices, (part + 1) * units // blocking.slices):
        lane_group, band = divmod(unit, blocking.bands)
        place_tiles(tiling, lane_group, tiles)
        first_row = band * tiling.rows // blocking.bands
        band_rows = (band + 1) * tiling.rows // blocking.bands - first_row
        for y in range(inputs_read(rows, band_rows)):
            used[y] = pack_row(
                images, tiles, rows, columns, first_row * rows.in_step + y, width,
                group * blocking.channels + first_channel, channels,
                packed_images, y * width * lanes, image_step, runs,
            )  # fmt: skip
        for y in range(band_rows):
            pack_row(
                maps, tiles, map_rows, map_columns, first_row + y, tiling.columns,
                group * blocking.filters + first_filter, filters,
                packed_maps, y * tiling.columns * lanes, map_step, runs,
            )  # fmt: skip
        _sum_band(
            packed_images, used, packed_maps, map_step, taps.ravel(), positions.ravel(), partial,
            filters, channels, band_rows, rows, columns, tiling,
        )  # fmt: skip


def _tasks_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    blocking = types.NamedUniTuple(types.intp, 7, Blocking)
    return images, images, number[:, ::1], AXIS, AXIS, TILING, blocking


@chunked(_tasks_signature)
@inner_kernel
def _sum_tasks(chunk, chunks, images, maps, partials, rows, columns, tiling, blocking):
    """Chunk ``chunk`` of all tasks."""
    most_rows = ceil_div(tiling.rows, blocking.bands)
    most_channels = ceil_div(blocking.channels, blocking.channel_blocks)
    most_filters = ceil_div(blocking.filters, blocking.filter_blocks)
    in_size = inputs_read(rows, most_rows) * inputs_read(columns, tiling.columns)
    packed_images = vectors(most_channels * in_size, images)
    packed_maps = vectors(most_filters * most_rows * tiling.columns, images)
    tasks = partials.shape[0]
    for task in range(chunk * tasks // chunks, (chunk + 1) * tasks // chunks):
        _sum_task(task, images, maps, partials[task], packed_images, packed_maps, rows, columns, tiling, blocking)


@inner_kernel
def _add_slices(partials, blocking, gradient):
    """Add the slices of each block, in order, into ``gradient`` (filters, channels, rows, columns)."""
    row_taps, column_taps = gradient.shape[2:]
    for task in range(partials.shape[0]):
        block, channel_block = divmod(task // blocking.slices, blocking.channel_blocks)
        group, filter_block = divmod(block, blocking.filter_blocks)
        first_filter = filter_block * blocking.filters // blocking.filter_blocks
        last_filter = (filter_block + 1) * blocking.filters // blocking.filter_blocks
        first_channel = channel_block * blocking.channels // blocking.channel_blocks
        last_channel = (channel_block + 1) * blocking.channels // blocking.channel_blocks
        at = 0
        for r in range(row_taps):
            for channel in range(first_channel, last_channel):
                for c in range(column_taps):
                    for f in range(first_filter, last_filter):
                        gradient[group * blocking.filters + f, channel, r, c] += partials[task, at]
                        at += 1


def _pass_signature(number):
    source, gradient = types.Array(number, 4, "A", readonly=True), types.Array(number, 4, "A")
    pair = types.UniTuple(types.intp, 2)
    return source, source, gradient, pair, types.UniTuple(pair, 2), pair, types.intp


@detached(_pass_signature)
@inner_kernel
def _filter_grad(images, maps, gradient, stride, padding, dilation, groups):
    """Plan the pass, sum all tasks, and add up their sums into ``gradient``, which is zero."""
    count, channels, row_taps, column_taps = gradient.shape
    rows = correlation_axis(maps.shape[2], images.shape[2], row_taps, stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(maps.shape[3], images.shape[3], column_taps, stride[1], padding[1][0], dilation[1])
    lanes = VECTOR_BYTES // images.itemsize
    tiling = choose_tiling(images.shape[0], lanes, rows, columns, 1, count // groups)
    blocking = _choose_blocking(groups, count // groups, channels, rows, columns, tiling)
    most_filters = ceil_div(blocking.filters, blocking.filter_blocks)
    most_channels = ceil_div(blocking.channels, blocking.channel_blocks)
    tasks = groups * blocking.filter_blocks * blocking.channel_blocks * blocking.slices
    partials = np.empty((tasks, most_filters * most_channels * row_taps * column_taps), images.dtype)
    threads = useful_threads(maps.size * channels * row_taps * column_taps)
    _sum_tasks(threads, images, maps, partials, rows, columns, tiling, blocking)
    _add_slices(partials, blocking, gradient)


@kernel
def correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `correlate2d` with respect to filters of ``rows`` by ``columns``, given that of its maps.

    Floor: the FLOPs of `correlate2d`, and reading images and maps once for each block of filters and channels.
    """
    shape = (maps.shape[1], images.shape[1] // max(groups, 1), rows, columns)
    check_maps(images.shape, shape, maps.shape, stride, padding, dilation, groups)
    gradient = np.zeros(shape, images.dtype)
    if images.size > 0 and maps.size > 0:
        step = -1 if flip else 1
        view = gradient[:, :, ::step, ::step]
        _filter_grad(any_layout(images), any_layout(maps), view, stride, padding, dilation, groups)
    return gradient
