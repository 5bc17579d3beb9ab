"""The gradient of a correlation with respect to its filters.

It sums over images and positions, so here the vectors' lanes are what is summed: 16 (float32) or 8 images
meet in one register, and are added up at the end of a band of rows.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.checks import SLIDING, check_maps, gradient_signature
from pytensor_convnet.kernels.cpu.column_reads import READS, reads_at
from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.input_rows import pack_rows
from pytensor_convnet.kernels.cpu.jit import any_layout, leaf_part, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.lane_pooling import WINNERS, new_pooled, no_windows, no_winners, unpool_maps
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import transform_maps, transform_sums
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    MOST_COLLECTED,
    TILING,
    aim_at_collected,
    aim_at_inputs,
    as_images,
    block_filters,
    ceil_div,
    collect,
    collects,
    correlation_axis,
    inputs_read,
    integers,
    new_runs,
    new_tiles,
    pack_columns,
    place_tiles,
    plain_axis,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.planning import plan_pass
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS, filter_grad_block

_BAND_POSITIONS = 72
"""Tiles of output rows that a register block should sum over: enough to pay for adding up its lanes, few enough for
the maps of its filters to stay in first-level cache."""

_PLANE_BYTES = 256 * 1024
"""Packed images of one point that stay in a core's second-level cache while all filters meet them."""

_BAND_BYTES = 1 << 22
"""Packed images and maps of a band, all points."""

_PACKING_CYCLES = 14
"""To pack a vector."""

_BLOCK_CYCLES = 90
"""To start a register block and to add up its lanes at the end."""

_TASKS = 32
"""Pieces into which the work is cut. Fixed, so that the order of summation, and with it the result, does not
depend on the number of threads."""

_PARTIAL_BYTES = 7 << 20
"""Memory for the sums of all slices, if there is more than one slice."""


class Blocking(NamedTuple):
    """How one group's gradient is cut into blocks, a tile's rows into bands, and all bands into slices."""

    groups: int
    filters: int
    channels: int
    filter_blocks: int
    channel_blocks: int
    bands: int
    slices: int


@leaf_part
def _blocks_in_bands(bands, filters, channels, rows, reads, tiling):
    """Filter and channel blocks for so many bands, as large as memory allows, and the cycles that the bands cost
    beside multiply-adds: every block is packed anew for all others that it meets."""
    band_rows = ceil_div(tiling.rows, bands)
    image_vectors = inputs_read(rows, band_rows) * reads.row_vectors
    map_vectors = band_rows * reads.points * reads.tiles
    most = _BAND_BYTES // VECTOR_BYTES
    # Half for either, or what the other leaves.
    some_channels = max(1, min(channels, max(most // 2, most - filters * map_vectors) // image_vectors))
    some_filters = max(MOST_FILTERS, min(filters, (most - some_channels * image_vectors) // map_vectors))
    channel_blocks, filter_blocks = ceil_div(channels, some_channels), ceil_div(filters, some_filters)
    packed = filter_blocks * channels * image_vectors + channel_blocks * filters * map_vectors
    products = channels * rows.taps.size * reads.offsets.size
    register_blocks = reads.points * ceil_div(filters, MOST_FILTERS) * ceil_div(products, MOST_COLUMNS[MOST_FILTERS])
    cycles = bands * (_PACKING_CYCLES * packed + _BLOCK_CYCLES * register_blocks)
    return filter_blocks, channel_blocks, cycles


@plain_part
def _choose_blocking(groups, filters, channels, rows, reads, tiling, item_bytes):
    """The cheapest bands and blocks, and enough slices to make `_TASKS` tasks."""
    fewest = ceil_div(tiling.rows, max(1, _BAND_POSITIONS // reads.tiles))
    bands, least = fewest, np.inf
    for number in range(fewest, tiling.rows + 1):
        cycles = _blocks_in_bands(number, filters, channels, rows, reads, tiling)[2]
        if cycles < least:
            bands, least = number, cycles
    filter_blocks, channel_blocks, _ = _blocks_in_bands(bands, filters, channels, rows, reads, tiling)
    blocks = groups * filter_blocks * channel_blocks
    sums = groups * filters * channels * rows.taps.size * reads.offsets.size * reads.points
    affordable = _PARTIAL_BYTES // (sums * item_bytes)
    slices = max(1, min(tiling.lane_groups * bands, _TASKS // blocks, affordable))
    return Blocking(groups, filters, channels, filter_blocks, channel_blocks, bands, slices)


@leaf_part
def _part(number, parts, total):
    """First and size of part ``number`` of ``total`` things in ``parts`` parts."""
    first = number * total // parts
    return first, (number + 1) * total // parts - first


@leaf_part
def _rows_in_images(r, used, band_rows, rows):
    """The range of a band's rows of maps whose input rows for row tap ``r`` are more than padding."""
    offset = rows.offsets[r] - rows.first
    start, stop = 0, band_rows
    while start < stop and not used[start * rows.in_step + offset]:
        start += 1
    while start < stop and not used[(stop - 1) * rows.in_step + offset]:
        stop -= 1
    return start, stop


@leaf_part
def _sum_band(
    images, used, maps, steps, taps, positions, partial, adding, filters, channels, band_rows, rows, reads
):  # fmt: skip
    """Add to a block of the gradient, which is none yet unless it is ``adding``, what one packed band contributes::

        for point: for f in range(filters):
            for row tap, read, channel:
                for y in range(band_rows): for tile in range(reads.tiles): for lane in range(lanes):
                    partial[point, row tap, read, channel, f] += (
                        maps[f, point, y, tile, lane] * images[channel, y + row tap, tile + read, point, lane]
                    )

    Row taps leave out the rows where they meet only padding; those of few products that leave out the same share
    register blocks. A point has the reads of `reads_at`. Floor: a multiply-add of a vector for each trip of the nest
    but the lanes, two a cycle; a register block of F filters and X taps loads F + X vectors for F * X of them.
    """
    map_step, point_step, plane_step = steps
    number_of_reads = reads.offsets.size
    row_sums = number_of_reads * channels
    plane_bytes = inputs_read(rows, band_rows) * plane_step * images.itemsize
    groups = min(channels, ceil_div(channels * plane_bytes, _PLANE_BYTES))
    for point in range(reads.points):
        begin, end = reads_at(point, 0, reads)
        for group in range(groups):
            first_channel, some = _part(group, groups, channels)
            # What follows each other: the channels of a read, of all reads, or of several row taps.
            runs, run = (1, some * (end - begin)) if some == channels else (end - begin, some)
            first = 0
            while first < filters:
                count = block_filters(filters - first)
                r = 0
                while r < rows.taps.size:
                    extent = _rows_in_images(r, used, band_rows, rows)
                    start, stop = extent
                    alike = 1
                    while (
                        run == row_sums
                        and run < MOST_COLUMNS[count]
                        and r + alike < rows.taps.size
                        and _rows_in_images(r + alike, used, band_rows, rows) == extent
                    ):
                        alike += 1
                    tap_blocks = ceil_div(alike * run, MOST_COLUMNS[count])
                    for number in range(runs * tap_blocks):
                        read, block = divmod(number, tap_blocks)
                        tap, size = _part(block, tap_blocks, alike * run)
                        tap += r * row_sums + (begin + read) * channels + first_channel
                        filter_grad_block(
                            count, size, images, point * plane_step, taps, tap,
                            positions, start * reads.tiles, stop * reads.tiles,
                            maps, first * map_step + point * point_step, map_step,
                            partial, (point * rows.taps.size * row_sums + tap) * filters + first, filters, adding,
                        )  # fmt: skip
                    r += alike
                first += count


@plain_part
def _list_taps(channels, image_step, lanes, rows, reads):
    """Where in packed images each tap's product with the first tile of the first row is."""
    number_of_reads = reads.offsets.size
    taps = integers(rows.taps.size * number_of_reads * channels)
    for r in range(rows.taps.size):
        for channel in range(channels):
            for read in range(reads.offsets.size):
                row = rows.offsets[r] - rows.first
                number = (r * number_of_reads + read) * channels + channel
                taps[number] = channel * image_step + (row * reads.row_vectors + reads.offsets[read]) * lanes
    return taps


@plain_part
def _list_positions(most_rows, lanes, rows, reads):
    """How far in packed images each tile is from the first tile of the first row."""
    positions = integers(most_rows * reads.tiles)
    for y in range(most_rows):
        for tile in range(reads.tiles):
            positions[y * reads.tiles + tile] = (y * rows.in_step * reads.row_vectors + tile * reads.tile_step) * lanes
    return positions


@leaf_part
def _pack_maps(
    maps, tiles, rows, columns, first, last, reads, tile_columns, channel, channels, packed, steps, raw, collected, runs
):  # fmt: skip
    """Pack rows of all lanes' tiles of the maps, as ``reads`` transforms them."""
    map_step, point_step, _ = steps
    lanes = VECTOR_BYTES // maps.itemsize
    width, count = reads.tiles * reads.outputs, last - first
    collecting = count * maps.shape[3] * lanes <= collected.size and collects(maps, tiles, count)
    for row in range(first, last):
        table = (row - first) * lanes
        aim_at_inputs(maps, tiles, rows, columns, row, tile_columns, runs, table)
        if collecting:
            aim_at_collected(maps, tiles, columns, row - first, count, runs, table)
    for c in range(channels):
        shift = (channel + c) * maps.strides[1]
        if collecting:
            collect(maps, tiles, rows, first, count, channel + c, collected)
        for row in range(first, last):
            at, table = c * map_step + (row - first) * reads.tiles * lanes, (row - first) * lanes
            to, to_at = (packed, at) if reads.points == 1 else (raw, 0)
            if collecting:
                pack_columns(collected, 0, width, to, to_at, runs, table, 0)
            else:
                pack_columns(maps, shift, width, to, to_at, runs, table, maps.strides[1])
            if reads.points > 1:
                transform_maps(
                    reads.form, raw, 0, lanes, reads.outputs * lanes, packed, at, point_step, lanes, reads.tiles
                )


@plain_part
def _sum_task(
    task, images, maps, winners, windows, partial, packed_images, packed_maps, rows, columns, reads, tiling, blocking
):  # fmt: skip
    """One slice of all bands, for one block of filters and channels: ``partial`` is set to their sum.

    Returns the number of winners that do not fit.
    """
    block, slice_ = divmod(task, blocking.slices)
    block, channel_block = divmod(block, blocking.channel_blocks)
    group, filter_block = divmod(block, blocking.filter_blocks)
    first_filter, filters = _part(filter_block, blocking.filter_blocks, blocking.filters)
    first_channel, channels = _part(channel_block, blocking.channel_blocks, blocking.channels)

    lanes = VECTOR_BYTES // images.itemsize
    most_rows = ceil_div(tiling.rows, blocking.bands)
    most_in_rows = inputs_read(rows, most_rows)
    image_step = most_in_rows * reads.row_vectors * lanes
    point_step = most_rows * reads.tiles * lanes
    steps = (reads.points * point_step, point_step, reads.places * lanes)
    map_rows, map_columns = plain_axis(maps.shape[2]), plain_axis(maps.shape[3])
    pooled, misfits = new_pooled(most_rows, windows, images), 0
    tiles, runs, used = new_tiles(lanes), new_runs(most_in_rows, lanes), new_array((most_in_rows,), np.bool_)
    collected = as_images(vectors(min(most_in_rows * max(images.shape[3], maps.shape[3]), MOST_COLLECTED), images))
    taps = _list_taps(channels, image_step, lanes, rows, reads)
    positions = _list_positions(most_rows, lanes, rows, reads)
    raw = vectors(max(reads.width, reads.tiles * reads.outputs), images)

    # Where some reads have no filters at some points, the bands leave sums out.
    adding = False
    for point in range(reads.points):
        begin, end = reads_at(point, 0, reads)
        adding |= end - begin < reads.offsets.size
    if adding:
        partial[:] = 0
    units = tiling.lane_groups * blocking.bands
    for unit in range(slice_ * units // blocking.slices, (slice_ + 1) * units // blocking.slices):
        lane_group, band = divmod(unit, blocking.bands)
        place_tiles(tiling, lane_group, tiles)
        first_row, band_rows = _part(band, blocking.bands, tiling.rows)
        top = first_row * rows.in_step
        pack_rows(
            images, tiles, rows, columns, top, top + inputs_read(rows, band_rows), most_in_rows, reads,
            group * blocking.channels + first_channel, channels,
            packed_images, reads.row_vectors * lanes, image_step, used, raw, collected, runs, top,
        )  # fmt: skip
        if windows.window_rows > 0:
            misfits += unpool_maps(
                maps, winners, windows, tiles, first_row, first_row + band_rows, reads,
                group * blocking.filters + first_filter, filters, packed_maps, steps, raw, pooled,
            )  # fmt: skip
        else:
            _pack_maps(
                maps, tiles, map_rows, map_columns, first_row, first_row + band_rows, reads, tiling.columns,
                group * blocking.filters + first_filter, filters, packed_maps, steps, raw, collected, runs,
            )  # fmt: skip
        _sum_band(
            packed_images, used, packed_maps, steps, taps, positions, partial, adding, filters, channels, band_rows,
            rows, reads,
        )  # fmt: skip
        adding = True
    return misfits


def _tasks_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    blocking = types.NamedUniTuple(types.intp, 7, Blocking)
    partials, misfits = number[:, ::1], types.intp[::1]
    return images, images, WINNERS, WINDOWS, partials, misfits, AXIS, AXIS, READS, TILING, blocking


@chunked(_tasks_signature)
@plain_part
def _sum_tasks(
    chunk, chunks, images, maps, winners, windows, partials, misfits, rows, columns, reads, tiling, blocking
):  # fmt: skip
    """Chunk ``chunk`` of all tasks."""
    most_rows = ceil_div(tiling.rows, blocking.bands)
    most_channels = ceil_div(blocking.channels, blocking.channel_blocks)
    most_filters = ceil_div(blocking.filters, blocking.filter_blocks)
    packed_images = vectors(most_channels * inputs_read(rows, most_rows) * reads.row_vectors, images)
    packed_maps = vectors(most_filters * most_rows * reads.tiles * reads.points, images)
    tasks = partials.shape[0]
    for task in range(chunk * tasks // chunks, (chunk + 1) * tasks // chunks):
        misfits[chunk] += _sum_task(
            task, images, maps, winners, windows, partials[task], packed_images, packed_maps,
            rows, columns, reads, tiling, blocking,
        )  # fmt: skip


def _slices_signature(number):
    return number[:, ::1], types.NamedUniTuple(types.intp, 7, Blocking), READS, types.Array(number, 4, "A")


@chunked(_slices_signature)
@plain_part
def _add_slices(chunk, chunks, partials, blocking, reads, gradient):
    """Chunk ``chunk`` of all blocks: add up a block's slices, in order, and turn the sums at points into
    ``gradient`` (filters, channels, rows, columns)."""
    row_taps = gradient.shape[2]
    blocks = partials.shape[0] // blocking.slices
    for block in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
        total = partials[block * blocking.slices]
        for later in range(1, blocking.slices):
            more = partials[block * blocking.slices + later]
            for i in range(total.size):
                total[i] += more[i]
        group_and_filters, channel_block = divmod(block, blocking.channel_blocks)
        group, filter_block = divmod(group_and_filters, blocking.filter_blocks)
        first_filter, filters = _part(filter_block, blocking.filter_blocks, blocking.filters)
        first_channel, channels = _part(channel_block, blocking.channel_blocks, blocking.channels)
        first_filter += group * blocking.filters
        point_step = row_taps * channels * reads.offsets.size * filters
        lanes = VECTOR_BYTES // partials.itemsize
        padded = ceil_div(filters, lanes) * lanes
        sums = new_array((reads.taps.shape[1] * padded,), partials.dtype)
        at = 0
        for r in range(row_taps):
            for read in range(reads.offsets.size):
                for channel in range(first_channel, first_channel + channels):
                    if reads.points == 1:
                        for f in range(filters):
                            sums[f] = total[at + f]
                    else:
                        transform_sums(
                            reads.form, total, at, point_step, lanes, sums, 0, padded, lanes, padded // lanes
                        )
                    for tap in range(reads.taps.shape[1]):
                        column = reads.taps[read, tap]
                        if column >= 0:
                            for f in range(filters):
                                gradient[first_filter + f, channel, r, column] = sums[tap * padded + f]
                    at += filters


@plain_part
def _sum_filters(images, maps, winners, windows, gradient, rows, columns, reads, tiling, groups, threads):
    """The gradient of some of the filters; counts misfits."""
    count, channels, row_taps, _ = gradient.shape
    blocking = _choose_blocking(groups, count // groups, channels, rows, reads, tiling, images.itemsize)
    most_filters = ceil_div(blocking.filters, blocking.filter_blocks)
    most_channels = ceil_div(blocking.channels, blocking.channel_blocks)
    tasks = groups * blocking.filter_blocks * blocking.channel_blocks * blocking.slices
    sums = most_filters * most_channels * row_taps * reads.offsets.size * reads.points
    # A vector beyond a block's last filter may be read.
    partials = new_array((tasks, sums + VECTOR_BYTES // images.itemsize), images.dtype)
    misfits = integers(threads)
    misfits[:] = 0
    _sum_tasks(
        threads, images, maps, winners, windows, partials, misfits, rows, columns, reads, tiling, blocking
    )  # fmt: skip
    _add_slices(threads, partials, blocking, reads, gradient)
    found = 0
    for count in misfits:
        found += count
    return found


def pass_signature(number):
    source, gradient = types.Array(number, 4, "A", readonly=True), types.Array(number, 4, "A")
    return WINNERS, WINDOWS, types.intp[::1], source, source, gradient, *SLIDING


@detached(pass_signature, loops=True)
@plain_part
def filter_grad(winners, windows, misfits, images, maps, gradient, stride, padding, dilation, groups):
    """Plan the pass, sum all tasks, and add up their sums into ``gradient``; `no_windows` for maps that are given
    themselves."""
    count, channels, row_taps, column_taps = gradient.shape
    pooled = windows.window_rows > 0
    map_rows, map_columns = maps.shape[2], maps.shape[3]
    if pooled:
        map_rows, map_columns = windows.rows, windows.columns
    rows = correlation_axis(map_rows, images.shape[2], row_taps, stride[0], padding[0][0], dilation[0])
    columns = correlation_axis(map_columns, images.shape[3], column_taps, stride[1], padding[1][0], dilation[1])
    tiling, reads = plan_pass(images.shape[0], rows, columns, channels, count // groups, images.itemsize, pooled)
    threads = useful_threads(images.shape[0] * map_rows * map_columns * gradient.size)
    # As many filters at a time as memory for their sums allows.
    sums = count * channels * row_taps * reads.offsets.size * reads.points
    parts = ceil_div(sums * images.itemsize, _PARTIAL_BYTES) if groups == 1 and not pooled else 1
    most = ceil_div(ceil_div(count, parts), MOST_FILTERS) * MOST_FILTERS if parts > 1 else count
    misfits[0] = 0
    for first in range(0, count, most):
        misfits[0] += _sum_filters(
            images, maps if parts == 1 else maps[:, first : first + most], winners, windows,
            gradient[first : first + most], rows, columns, reads, tiling, groups, threads,
        )  # fmt: skip


@detached(gradient_signature)
@plain_part
def _correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    shape = (maps.shape[1], images.shape[1] // max(groups, 1), rows, columns)
    check_maps(images.shape, shape, maps.shape, stride, padding, dilation, groups)
    gradient = new_array(shape, images.dtype)
    gradient[:] = 0
    if images.size > 0 and maps.size > 0:
        step = -1 if flip else 1
        view = gradient[:, :, ::step, ::step]
        none, misfits = any_layout(no_winners()), integers(1)
        filter_grad(none, no_windows(), misfits, images, maps, view, stride, padding, dilation, groups)
    return gradient


@plain_kernel
def correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `correlate2d` with respect to filters of ``rows`` by ``columns``, given that of its maps.

    Floor: the FLOPs of `correlate2d`, and reading images and maps once for each block of filters and channels.
    """
    return _correlate2d_filter_grad(
        any_layout(images), any_layout(maps), rows, columns, stride, padding, dilation, groups, bool(flip)
    )
