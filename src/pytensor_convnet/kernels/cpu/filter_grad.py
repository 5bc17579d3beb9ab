"""The gradient of a correlation with respect to its filters.

It sums over images and positions, so here the vectors' lanes are what is summed: 16 (float32) or 8 images
meet in one register, and are added up at the end of a band of rows.
"""

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.checks import SLIDING, check_maps, gradient_signature
from pytensor_convnet.kernels.cpu.column_reads import READS, reads_at
from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.filter_grad_bands import list_positions, list_taps, pack_maps, sum_band
from pytensor_convnet.kernels.cpu.filter_grad_blocking import BLOCKING, PARTIAL_BYTES, choose_blocking, piece
from pytensor_convnet.kernels.cpu.input_rows import pack_rows
from pytensor_convnet.kernels.cpu.jit import any_layout, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.lane_pooling import WINNERS, new_pooled, no_windows, no_winners, unpool_maps
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import transform_sums
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    MOST_COLLECTED,
    TILING,
    as_images,
    ceil_div,
    correlation_axis,
    inputs_read,
    integers,
    new_runs,
    new_tiles,
    place_tiles,
    plain_axis,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.planning import plan_pass
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS
from pytensor_convnet.kernels.cpu.register_blocks import MOST_FILTERS


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
    first_filter, filters = piece(filter_block, blocking.filter_blocks, blocking.filters)
    first_channel, channels = piece(channel_block, blocking.channel_blocks, blocking.channels)

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
    taps = list_taps(channels, image_step, lanes, rows, reads)
    positions = list_positions(most_rows, lanes, rows, reads)
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
        first_row, band_rows = piece(band, blocking.bands, tiling.rows)
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
            pack_maps(
                maps, tiles, map_rows, map_columns, first_row, first_row + band_rows, reads, tiling.columns,
                group * blocking.filters + first_filter, filters, packed_maps, steps, raw, collected, runs,
            )  # fmt: skip
        sum_band(
            packed_images, used, packed_maps, steps, taps, positions, partial, adding, filters, channels, band_rows,
            rows, reads,
        )  # fmt: skip
        adding = True
    return misfits


def _tasks_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    partials, misfits = number[:, ::1], types.intp[::1]
    return images, images, WINNERS, WINDOWS, partials, misfits, AXIS, AXIS, READS, TILING, BLOCKING


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


@emitted(arrays=1)
def _add_numbers(e, vector, source, target, count):
    """``target[n] += source[n]`` for ``count`` numbers."""
    item, lanes = item_bytes(vector), vector.count

    def add(type_, n):
        place = target + n * item
        e.store(place, e.load(type_, place) + e.load(type_, source + n * item))

    whole = count // lanes * lanes
    with e.range(0, whole, lanes) as n:
        add(vector, n)
    with e.range(whole, count) as n:
        add(vector.element, n)


def _slices_signature(number):
    return number[:, ::1], BLOCKING, READS, types.Array(number, 4, "A")


@chunked(_slices_signature)
@plain_part
def _add_slices(chunk, chunks, partials, blocking, reads, gradient):
    """Chunk ``chunk`` of all blocks' channels: add up the slices, in order, and turn the sums at points into
    ``gradient`` (filters, channels, rows, columns)."""
    item, number_of_reads = partials.itemsize, reads.offsets.size
    lanes = VECTOR_BYTES // item
    row_sums = gradient.shape[2] * number_of_reads
    padded = ceil_div(ceil_div(blocking.filters, blocking.filter_blocks), lanes) * lanes
    sums = new_array((reads.taps.shape[1] * padded,), partials.dtype)
    blocks, most_channels = partials.shape[0] // blocking.slices, ceil_div(blocking.channels, blocking.channel_blocks)
    begin, count = piece(chunk, chunks, blocks * most_channels)
    for block in range(blocks):
        group_and_filters, channel_block = divmod(block, blocking.channel_blocks)
        group, filter_block = divmod(group_and_filters, blocking.filter_blocks)
        first_filter, filters = piece(filter_block, blocking.filter_blocks, blocking.filters)
        first_channel, channels = piece(channel_block, blocking.channel_blocks, blocking.channels)
        first_filter += group * blocking.filters
        first = max(0, min(channels, begin - block * most_channels))
        some = max(0, min(channels, begin + count - block * most_channels)) - first
        total = partials[block * blocking.slices]
        for later in range(1, blocking.slices):
            more = partials[block * blocking.slices + later]
            for run in range(reads.points * row_sums):
                at = (run * channels + first) * filters * item
                _add_numbers(partials, address_of(more) + at, address_of(total) + at, some * filters)
        for channel in range(first, first + some):
            for number in range(row_sums):
                r, read = divmod(number, number_of_reads)
                at = (number * channels + channel) * filters
                if reads.points == 1:
                    for f in range(filters):
                        sums[f] = total[at + f]
                else:
                    transform_sums(
                        reads.form, total, at, row_sums * channels * filters, lanes,
                        sums, 0, padded, lanes, ceil_div(filters, lanes),
                    )  # fmt: skip
                for tap in range(reads.taps.shape[1]):
                    column = reads.taps[read, tap]
                    if column >= 0:
                        for f in range(filters):
                            gradient[first_filter + f, first_channel + channel, r, column] = sums[tap * padded + f]


@plain_part
def _sum_filters(images, maps, winners, windows, gradient, rows, columns, reads, tiling, groups, threads):
    """The gradient of some of the filters; counts misfits."""
    count, channels, row_taps, _ = gradient.shape
    blocking = choose_blocking(groups, count // groups, channels, rows, reads, tiling, images.itemsize)
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
    parts = ceil_div(sums * images.itemsize, PARTIAL_BYTES) if groups == 1 and not pooled else 1
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
    if images.size == 0 or maps.size == 0:
        gradient[:] = 0
    else:
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
