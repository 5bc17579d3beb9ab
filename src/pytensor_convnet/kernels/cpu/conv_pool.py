"""Correlation, max pooling, biases and activation in one pass: the maps at full resolution never reach memory.

A band of rows of maps is computed as in `correlation`, pooled where it lies, one image a lane, and only maxima, biased
and activated, and winners are written. That needs whole images in lanes: a batch that does not fill them is cut into
tiles, whose windows would hang over their edges. There, and for wide winners, the maps are written after all. The
gradients are in `conv_pool_grad`.
"""

import numpy as np
from numba import types

from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels.cpu.activations import activate_run, check_activation
from pytensor_convnet.kernels.cpu.checks import SLIDING, check_correlation
from pytensor_convnet.kernels.cpu.column_reads import READS
from pytensor_convnet.kernels.cpu.correlation import correlate2d
from pytensor_convnet.kernels.cpu.correlation_bands import ROW_PLAN, correlate_band, plan_rows
from pytensor_convnet.kernels.cpu.detached import FLOATS, NO_ARRAYS, chunked, detached
from pytensor_convnet.kernels.cpu.emission import address_of
from pytensor_convnet.kernels.cpu.filter_packing import FilterOrder, pack_filters, packed_filters_size, split_groups
from pytensor_convnet.kernels.cpu.input_rows import pack_rows
from pytensor_convnet.kernels.cpu.jit import any_layout, leaf_part, part, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.lane_pooling import narrow_run, no_winners, pool_lanes, write_winners
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.max_pooling import max_pool2d
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import MOST_OUTPUTS
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    MOST_COLLECTED,
    TILING,
    as_images,
    ceil_div,
    correlation_axis,
    integers,
    new_runs,
    new_tiles,
    place_tiles,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.planning import plan_pass
from pytensor_convnet.kernels.cpu.pool_checks import POOL_NUMBERS, WINDOWS, check_pool_numbers, pool_numbers
from pytensor_convnet.kernels.cpu.simd import copy_run, turn_lanes

FLOATS_AND_WINNERS = tuple((*number, winner) for number in FLOATS for winner in (types.uint8, types.int64))

_ROW_BYTES = 1 << 21
"""What the rows that a window spans, of inputs and of maps, may take in lanes before they are transformed."""

_FUSED_FILTER_BYTES = 1 << 21
"""Filters before they are transformed."""

_STAGE_BYTES = 768 * 1024
"""Rows of maps that are computed before they are pooled."""


@leaf_part
def _keep_overlap(staged, step, filters, shift, count):
    """Move ``count`` numbers of each filter's maps on the stage to its begin, from ``shift`` numbers on."""
    item = staged.itemsize
    for f in range(filters):
        copy_run(staged, (f * step + shift) * item, staged, f * step * item, count, False)


@leaf_part
def _write_maxima(rows, size, target, shift, tiles, turned):
    """Write a run of vectors of one filter to every lane's image."""
    lanes, item = VECTOR_BYTES // rows.itemsize, rows.itemsize
    step = ceil_div(size, lanes) * lanes
    image_bytes, whole = target.strides[0], 0
    if tiles.images[lanes - 1] >= 0:
        whole = size - size % lanes
        place = (tiles.images[0] * image_bytes + shift) // item
        for column in range(0, whole, lanes):
            turn_lanes(rows, column * lanes, target, place + column, image_bytes // item, False)
    for column in range(whole, size, lanes):
        turn_lanes(rows, column * lanes, turned, column, step, False)
    for lane in range(lanes):
        if tiles.images[lane] >= 0 and whole < size:
            byte = tiles.images[lane] * image_bytes + shift + whole * item
            copy_run(turned, (lane * step + whole) * item, target, byte, size - whole, False)


@leaf_part
def _write_winners(rows, size, target, shift, tiles, turned):
    """As `_write_maxima`, for winners in vectors of numbers."""
    lanes, item = VECTOR_BYTES // rows.itemsize, rows.itemsize
    step = ceil_div(size, lanes) * lanes
    image_bytes, whole = target.strides[0], 0
    if tiles.images[lanes - 1] >= 0:
        place = address_of(target) + tiles.images[0] * image_bytes + shift
        whole = write_winners(rows, target, address_of(rows), size, place, image_bytes)
    for column in range(whole, size, lanes):
        turn_lanes(rows, column * lanes, turned, column, step, False)
    for lane in range(lanes):
        if tiles.images[lane] >= 0 and whole < size:
            place = address_of(target) + tiles.images[lane] * image_bytes + shift + whole
            narrow_run(rows, target, address_of(turned) + (lane * step + whole) * item, place, size - whole)


def _rows_signature(number):
    images, maxima = types.Array(number, 4, "A", readonly=True), number[:, :, :, ::1]
    return (
        images, number[::1], maxima, types.uint8[:, :, :, ::1], number[::1], types.intp,
        AXIS, AXIS, READS, TILING, ROW_PLAN, WINDOWS,
    )  # fmt: skip


@chunked(_rows_signature)
@plain_part
def _pool_rows(
    chunk, chunks, source, weights, maxima, winners, biases, activation, rows, columns, reads, tiling, plan, windows
):  # fmt: skip
    """Chunk ``chunk`` of all rows of windows, a row of every lane in a group of lanes at a time::

        for group: for lane group: for some rows of windows:
            for band of the rows of maps in them, that earlier windows had not:
                pack the input rows it reads that are not packed yet
                compute it with correlate_band
            for filter: for row of windows: pool it; activate and write maxima, write winners

    Floor: that of the correlation, less writing its maps.
    """
    lanes, item = VECTOR_BYTES // source.itemsize, source.itemsize
    packed = vectors(plan.slots * plan.channels * reads.row_vectors, source)
    raw = vectors(reads.width, source)
    used = new_array((plan.slots,), np.bool_)
    values = vectors(plan.band * plan.filters * reads.points * reads.tiles + MOST_OUTPUTS, source)
    w = windows
    row_step = w.columns * lanes
    row_bytes = plan.filters * w.columns * VECTOR_BYTES
    some = max(1, (_STAGE_BYTES // row_bytes - w.window_rows) // w.stride_rows)
    some = min(some, w.out_rows, max(1, MOST_COLLECTED // w.out_columns))
    some = ceil_div(w.out_rows, ceil_div(w.out_rows, some))
    # Whole cache lines, if that takes a few rows.
    line = lanes
    while line > 1 and w.out_columns * line // 2 % lanes == 0:
        line //= 2
    if line < some < w.out_rows:
        some -= some % line
    step = ((some - 1) * w.stride_rows + w.window_rows + plan.band) * row_step
    staged = vectors(plan.filters * step // lanes, source)
    size = ceil_div(some * w.out_columns, lanes) * lanes
    pooled, numbers, turned = vectors(size, source), vectors(size, source), vectors(size, source)
    offsets, extents = integers(plan.band * plan.depth), integers(2 * plan.band)
    tiles, runs = new_tiles(lanes), new_runs(plan.slots, lanes)
    collected = as_images(vectors(min(plan.slots * source.shape[3], MOST_COLLECTED), source))

    units = plan.groups * tiling.lane_groups * w.out_rows
    unit, last = chunk * units // chunks, (chunk + 1) * units // chunks
    while unit < last:
        part, start = divmod(unit, w.out_rows)
        group, lane_group = divmod(part, tiling.lane_groups)
        place_tiles(tiling, lane_group, tiles)
        stop = min(w.out_rows, start + last - unit)
        done = computed = staged_from = max(0, start * w.stride_rows - w.top)
        done *= rows.in_step
        for y in range(start, stop, some):
            end_y = min(y + some, stop)
            first = max(0, y * w.stride_rows - w.top)
            end = min(w.rows, (end_y - 1) * w.stride_rows - w.top + w.window_rows)
            if computed > first:
                _keep_overlap(
                    staged, step, plan.filters, (first - staged_from) * row_step, (computed - first) * row_step
                )
            staged_from, computed = first, max(first, computed)
            while computed < end:
                bases = min(plan.band, end - computed)
                top = computed * rows.in_step
                bottom = top + (bases - 1) * rows.in_step + rows.span
                if bottom > done:
                    bottom = min(bottom + plan.ahead, (w.rows - 1) * rows.in_step + rows.span)
                pack_rows(
                    source, tiles, rows, columns, max(done, top), bottom, plan.slots, reads,
                    group * plan.channels, plan.channels,
                    packed, plan.channels * reads.row_vectors * lanes, reads.row_vectors * lanes,
                    used, raw, collected, runs, 0,
                )  # fmt: skip
                done = max(done, bottom)
                correlate_band(
                    group, computed, bases, used, packed, offsets, extents, weights, values,
                    staged, (computed - first) * row_step, (step, row_step), rows, columns, reads, plan,
                )  # fmt: skip
                computed += bases
            for f in range(plan.filters):
                for y_ in range(y, end_y):
                    map_top = y_ * w.stride_rows - w.top
                    first_i, end_i = max(0, -map_top), min(w.window_rows, w.rows - map_top)
                    at = f * step + (map_top + first_i - first) * row_step
                    line = (y_ - y) * w.out_columns * VECTOR_BYTES
                    pool_lanes(
                        staged, address_of(staged) + at * item, row_step * item, first_i, end_i, w.window_columns,
                        w.stride_columns, w.left, w.columns, w.out_columns,
                        address_of(pooled) + line, address_of(numbers) + line,
                    )  # fmt: skip
                size = (end_y - y) * w.out_columns
                channel = group * plan.filters + f
                activate_run(
                    pooled, address_of(pooled), size * lanes, address_of(biases) + channel * item, activation
                )  # fmt: skip
                byte = y * maxima.strides[2] + channel * maxima.strides[1]
                _write_maxima(pooled, size, maxima, byte, tiles, turned)
                byte = y * winners.strides[2] + channel * winners.strides[1]
                _write_winners(numbers, size, winners, byte, tiles, turned)
        unit += stop - start


def _forward_signature(number):
    images, filters = (types.Array(number, axes, "A", readonly=True) for axes in (4, 5))
    pair = types.UniTuple(types.intp, 2)
    maxima, winners = number[:, :, :, ::1], types.uint8[:, :, :, ::1]
    return images, filters, maxima, winners, number[::1], types.intp, WINDOWS, pair, types.UniTuple(pair, 2), pair


@detached(_forward_signature)
@plain_part
def _forward(images, filters, maxima, winners, biases, activation, windows, stride, padding, dilation):
    """Plan the pass for filters ``(groups, filters, channels, rows, columns)`` and run it."""
    groups, count, channels = filters.shape[:3]
    taps, before = filters.shape[3:], (padding[0][0], padding[1][0])
    rows = correlation_axis(windows.rows, images.shape[2], taps[0], stride[0], before[0], dilation[0])
    columns = correlation_axis(windows.columns, images.shape[3], taps[1], stride[1], before[1], dilation[1])
    pooled = windows.window_rows > 0
    tiling, reads = plan_pass(images.shape[0], rows, columns, channels, count, images.itemsize, pooled)
    threads = useful_threads(images.shape[0] * windows.rows * windows.columns * filters.size)
    order = FilterOrder(groups, count, channels)
    weights = new_array((packed_filters_size(rows, reads, order),), images.dtype)
    pack_filters(threads, filters, rows, reads, order, weights)
    plan = plan_rows(groups, count, channels, rows, columns, reads, tiling)
    _pool_rows(
        threads, images, weights, maxima, winners, biases, activation, rows, columns, reads, tiling, plan, windows
    )  # fmt: skip


@plain_part
def as_bytes(winners):
    """``winners`` if they are bytes, else none."""
    if winners.itemsize == 1:
        return winners
    return no_winners()


SHAPE = types.UniTuple(types.intp, 4)


@detached(lambda: types.boolean(SHAPE, SHAPE, types.intp, WINDOWS), NO_ARRAYS)
@plain_part
def shapes_fuse(images, filters, item_bytes, windows):
    """Whether images and filters of such shapes are fused, pixel by pixel: whole images fill lanes, and what they need
    is small."""
    rows_of_inputs = images[1] * images[3] * filters[2]
    rows_of_maps = filters[0] * windows.columns * windows.window_rows
    numbers = filters[0] * filters[1] * filters[2] * filters[3]
    small = (rows_of_inputs + rows_of_maps) * VECTOR_BYTES <= _ROW_BYTES and numbers * item_bytes <= _FUSED_FILTER_BYTES
    return small and numbers > 0 and images[0] >= VECTOR_BYTES // item_bytes


@leaf_part
def has_byte_winners(winners, windows):
    """Whether there are windows, and the winner of each is a byte."""
    few = windows.window_rows * windows.window_columns <= 256 and windows.out_rows * windows.out_columns > 0
    return winners.itemsize == 1 and few


# ------------------------------------------------------------------- where the maps are written after all


def arrays_of(number, *dtypes):
    """Types of arrays of four axes that are only read, in any layout."""
    return tuple(types.Array(dtype, 4, "A", readonly=True) for dtype in (number, *dtypes))


def _outputs(number, winner):
    return types.Tuple((number[:, :, :, ::1], winner[:, :, :, ::1]))


def _maps_signature(number, winner):
    pooling = winner[::1], number[::1], types.intp, WINDOWS, types.boolean
    return _outputs(number, winner)(*arrays_of(number, number), *pooling, *SLIDING, types.boolean)


@leaf_part
def parts_of(windows):
    """Window, stride and padding."""
    w = windows
    padding = ((w.top, w.bottom), (w.left, w.right))
    return (w.window_rows, w.window_columns), (w.stride_rows, w.stride_columns), padding


@detached(_maps_signature, FLOATS_AND_WINNERS, lazily=True)
@part
def _forward_with_maps(
    images, filters, no_winners, biases, activation, windows, ignore_border,
    stride, padding, dilation, groups, flip,
):  # fmt: skip
    maps = correlate2d(images, filters, stride, padding, dilation, groups, flip)
    window, pool_stride, pool_padding = parts_of(windows)
    maxima, winners = max_pool2d(maps, no_winners.dtype, window, pool_stride, pool_padding, ignore_border)
    item, plane = maxima.itemsize, windows.out_rows * windows.out_columns
    for b in range(maxima.shape[0]):
        for f in range(maxima.shape[1]):
            place = address_of(maxima) + (b * maxima.shape[1] + f) * plane * item
            activate_run(maxima, place, plane, address_of(biases) + f * item, activation)
    return maxima, winners


# --------------------------------------------------------------------------------------------- the kernels


def _max_pool2d_signature(number, winner):
    pooling = POOL_NUMBERS, types.boolean, number[::1], types.intp
    return _outputs(number, winner)(*arrays_of(number, number), winner[::1], *SLIDING, types.boolean, *pooling)


@detached(_max_pool2d_signature, FLOATS_AND_WINNERS)
@plain_part
def _correlate2d_max_pool2d(
    images, filters, no_winners, stride, padding, dilation, groups, flip, numbers, ignore_border, biases, activation
):  # fmt: skip
    check_correlation(images.shape, filters.shape, stride, padding, dilation, groups)
    (top, bottom), (left, right) = padding
    rows = correlation_length(images.shape[2], filters.shape[2], stride[0], top, bottom, dilation[0])
    columns = correlation_length(images.shape[3], filters.shape[3], stride[1], left, right, dilation[1])
    shape = (images.shape[0], filters.shape[0], rows, columns)
    windows = check_pool_numbers(shape, numbers, ignore_border)
    check_activation(images, activation)
    if biases.size != filters.shape[0]:
        raise ValueError("biases must hold a number for each filter")
    if has_byte_winners(no_winners, windows) and shapes_fuse(images.shape, filters.shape, images.itemsize, windows):
        maxima = new_array((shape[0], shape[1], windows.out_rows, windows.out_columns), images.dtype)
        winners = new_array(maxima.shape, no_winners.dtype)
        grouped = split_groups(filters, groups)
        if flip:
            grouped = grouped[:, :, :, ::-1, ::-1]
        _forward(images, grouped, maxima, as_bytes(winners), biases, activation, windows, stride, padding, dilation)
        return maxima, winners
    if no_winners.itemsize == 1 and windows.window_rows * windows.window_columns > 256:
        raise ValueError("one byte cannot number the taps of a window of more than 256: pass winners_dtype int64")
    return _forward_with_maps(
        images, filters, no_winners, biases, activation, windows, ignore_border,
        stride, padding, dilation, groups, flip,
    )  # fmt: skip


@plain_kernel
def correlate2d_max_pool2d(
    images, filters, winners_dtype, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding, ignore_border, biases, activation,
):  # fmt: skip
    """The maxima of every window of the maps of `correlate2d`, and their winners.

    To the maxima of each filter its bias is added, and then they are activated; ``activation`` is a number of
    `ACTIVATIONS`, and tanh takes float32.

    Floor: the FLOPs of `correlate2d`; images read once, maxima and winners written once.
    """
    shifts = new_array((biases.size,), images.dtype)
    for f in range(biases.size):
        shifts[f] = biases[f]
    return _correlate2d_max_pool2d(
        any_layout(images), any_layout(filters), new_array((0,), winners_dtype),
        stride, padding, dilation, groups, bool(flip),
        pool_numbers(window, pool_stride, pool_padding), bool(ignore_border), shifts, activation,
    )  # fmt: skip
