"""Correlation of images with filters, and its gradient with respect to the images.

Both are one algorithm, `_correlate_rows`, on different axes (see `packing`): a row of outputs at a time, the
input rows it reads kept packed in a ring, 16 (float32) or 8 images to a vector, register blocks of filters by
columns. No intermediate array grows with the images.
"""

import numpy as np
from numba import types

from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels.cpu.checks import SLIDING, check_correlation, check_maps, gradient_signature
from pytensor_convnet.kernels.cpu.column_reads import READS
from pytensor_convnet.kernels.cpu.correlation_bands import ROW_PLAN, correlate_band, plan_rows
from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.filter_packing import (
    FilterOrder,
    pack_filters,
    packed_filters_size,
    split_groups,
    swap_roles,
)
from pytensor_convnet.kernels.cpu.input_rows import pack_rows
from pytensor_convnet.kernels.cpu.jit import any_layout, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.lane_pooling import WINNERS, new_pooled, no_windows, no_winners, unpool_inputs
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import MOST_OUTPUTS
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    MOST_COLLECTED,
    TILING,
    as_images,
    ceil_div,
    correlation_axis,
    gradient_axis,
    integers,
    new_runs,
    new_tiles,
    place_tiles,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.planning import plan_pass
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS
from pytensor_convnet.kernels.cpu.register_blocks import MOST_FILTERS
from pytensor_convnet.kernels.cpu.simd import finish_streaming
from pytensor_convnet.kernels.cpu.unpacking import STAGE, plan_stage, unpack_rows

__all__ = ["correlate2d", "correlate2d_input_grad"]

_FILTER_BYTES = 1 << 22
"""Transformed filters, of which all threads share one copy."""


def _rows_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    out = types.Array(number, 4, "A")
    return images, WINNERS, WINDOWS, number[::1], out, types.intp[::1], AXIS, AXIS, READS, TILING, ROW_PLAN, STAGE


@chunked(_rows_signature)
@plain_part
def _correlate_rows(
    chunk, chunks, source, winners, windows, weights, out, misfits, rows, columns, reads, tiling, plan, stage
):  # fmt: skip
    """Chunk ``chunk`` of all rows of outputs, a row of every lane in a group of lanes at a time::

        for group: for lane group: for rows that wait on the stage together:
            for band of rows:
                pack the input rows it reads that are not packed yet
                compute it with correlate_band
            write the rows

    Row taps that meet only padding are left out. With ``windows`` the source is the pooled gradient of the maps to
    read, which are made from it and its ``winners``; ``misfits[chunk]`` counts winners that do not fit.

    Floor: what `correlate_band` takes, and for memory, reading the source once and writing the outputs once.
    """
    lanes = VECTOR_BYTES // source.itemsize
    packed = vectors(plan.slots * plan.channels * reads.row_vectors, source)
    raw = vectors(reads.width, source)
    used = new_array((plan.slots,), np.bool_)
    values = vectors(plan.band * plan.filters * reads.points * reads.tiles + MOST_OUTPUTS, source)
    # A run is turned by whole squares of lanes.
    step = (stage.bases * rows.out_step * stage.width + lanes) * lanes
    row_step = stage.width * lanes
    staged = vectors(plan.filters * step // lanes, source)
    turned = vectors(ceil_div(stage.run_rows * stage.width, lanes) * lanes, source)
    offsets, extents = integers(plan.band * plan.depth), integers(2 * plan.band)
    tiles, runs = new_tiles(lanes), new_runs(plan.slots, lanes)
    collected = as_images(vectors(min(plan.slots * source.shape[3], MOST_COLLECTED), source))
    pooled = new_pooled(plan.slots, windows, source)
    misfits[chunk] = 0

    units = plan.groups * tiling.lane_groups * tiling.rows
    unit, last = chunk * units // chunks, (chunk + 1) * units // chunks
    while unit < last:
        part, start = divmod(unit, tiling.rows)
        group, lane_group = divmod(part, tiling.lane_groups)
        place_tiles(tiling, lane_group, tiles)
        done = start * rows.in_step
        stop = min(tiling.rows, start + last - unit)
        for first in range(start, stop, stage.bases):
            waiting = min(stage.bases, stop - first)
            for b in range(0, waiting, plan.band):
                bases = min(plan.band, waiting - b)
                top = (first + b) * rows.in_step
                bottom = top + (bases - 1) * rows.in_step + rows.span
                if bottom > done:
                    bottom = min(bottom + plan.ahead, (stop - 1) * rows.in_step + rows.span)
                if windows.window_rows > 0:
                    misfits[chunk] += unpool_inputs(
                        source, winners, windows, tiles, rows, columns, max(done, top), bottom, plan.slots, reads,
                        group * plan.channels, plan.channels,
                        packed, plan.channels * reads.row_vectors * lanes, reads.row_vectors * lanes, used, raw, pooled,
                    )  # fmt: skip
                else:
                    pack_rows(
                        source, tiles, rows, columns, max(done, top), bottom, plan.slots, reads,
                        group * plan.channels, plan.channels,
                        packed, plan.channels * reads.row_vectors * lanes, reads.row_vectors * lanes,
                        used, raw, collected, runs, 0,
                    )  # fmt: skip
                done = max(done, bottom)
                correlate_band(
                    group, first + b, bases, used, packed, offsets, extents, weights, values,
                    staged, b * rows.out_step * row_step, (step, row_step), rows, columns, reads, plan,
                )  # fmt: skip
            unpack_rows(
                staged, step, first, waiting, plan.filters, group * plan.filters, out, tiles, rows, columns,
                stage, runs, turned,
            )  # fmt: skip
        unit += stop - start
    finish_streaming()


@plain_part
def _correlate(source, winners, windows, filters, out, rows, columns):
    """Correlate with filters ``(groups, filters, channels, rows, columns)`` along the given axes; counts misfits."""
    groups, count, channels = filters.shape[:3]
    pooled = windows.window_rows > 0
    tiling, reads = plan_pass(source.shape[0], rows, columns, channels, count, source.itemsize, pooled)
    bases = tiling.rows * tiling.row_tiles * tiling.columns * tiling.column_tiles
    threads = useful_threads(source.shape[0] * bases * filters.size)
    misfits = integers(threads)
    # Filters are transformed, and meet the images, in as few parts as memory allows.
    size = packed_filters_size(rows, reads, FilterOrder(groups, count, channels))
    parts = ceil_div(size * source.itemsize, _FILTER_BYTES) if groups == 1 else 1
    most = ceil_div(ceil_div(count, parts), MOST_FILTERS) * MOST_FILTERS if parts > 1 else count
    weights = new_array((ceil_div(size, count) * most,), source.dtype)
    for first in range(0, count, most):
        some = filters[:, first : first + most]
        maps = out if parts == 1 else out[:, first : first + most]
        order = FilterOrder(groups, some.shape[1], channels)
        pack_filters(threads, some, rows, reads, order, weights)
        plan = plan_rows(groups, some.shape[1], channels, rows, columns, reads, tiling)
        stage = plan_stage(maps, some.shape[1], rows, columns, tiling, plan.band)
        _correlate_rows(
            threads, source, winners, windows, weights, maps, misfits, rows, columns, reads, tiling, plan, stage
        )  # fmt: skip
    total = 0
    for found in misfits:
        total += found
    return total


@plain_part
def _forward(images, filters, maps, stride, padding, dilation):
    taps, before = filters.shape[3:], (padding[0][0], padding[1][0])
    rows = correlation_axis(maps.shape[2], images.shape[2], taps[0], stride[0], before[0], dilation[0])
    columns = correlation_axis(maps.shape[3], images.shape[3], taps[1], stride[1], before[1], dilation[1])
    _correlate(images, any_layout(no_winners()), no_windows(), filters, maps, rows, columns)


def input_grad_signature(number):
    source, filters = (types.Array(number, axes, "A", readonly=True) for axes in (4, 5))
    return WINNERS, WINDOWS, types.intp[::1], source, filters, types.Array(number, 4, "A"), *SLIDING[:3]


@detached(input_grad_signature)
@plain_part
def input_grad(winners, windows, misfits, maps, filters, images, stride, padding, dilation):
    """The gradient for filters ``(groups, filters, channels, rows, columns)``, into ``images``; `no_windows` for
    maps that are given themselves."""
    map_rows, map_columns = maps.shape[2], maps.shape[3]
    if windows.window_rows > 0:
        map_rows, map_columns = windows.rows, windows.columns
    taps, before = filters.shape[3:], (padding[0][0], padding[1][0])
    rows = gradient_axis(images.shape[2], map_rows, taps[0], stride[0], before[0], dilation[0])
    columns = gradient_axis(images.shape[3], map_columns, taps[1], stride[1], before[1], dilation[1])
    misfits[0] = _correlate(maps, winners, windows, swap_roles(filters), images, rows, columns)


def _forward_signature(number):
    arrays = (types.Array(number, 4, "A", readonly=True),) * 2
    return types.Array(number, 4, "C")(*arrays, *SLIDING, types.boolean)


@detached(_forward_signature)
@plain_part
def _correlate2d(images, filters, stride, padding, dilation, groups, flip):
    check_correlation(images.shape, filters.shape, stride, padding, dilation, groups)
    (top, bottom), (left, right) = padding
    rows = correlation_length(images.shape[2], filters.shape[2], stride[0], top, bottom, dilation[0])
    columns = correlation_length(images.shape[3], filters.shape[3], stride[1], left, right, dilation[1])
    maps = new_array((images.shape[0], filters.shape[0], rows, columns), images.dtype)
    if images.size == 0 or filters.size == 0:
        maps[:] = 0
        return maps
    grouped = split_groups(filters, groups)
    if flip:
        grouped = grouped[:, :, :, ::-1, ::-1]
    _forward(images, grouped, maps, stride, padding, dilation)
    return maps


@plain_kernel
def correlate2d(images, filters, stride, padding, dilation, groups, flip):
    """Correlate images ``(batch, channels, rows, columns)`` with filters ``(filters, channels // groups, rows,
    columns)``.

    ``padding`` is ``((top, bottom), (left, right))``; ``flip`` reads the filters reversed on both spatial axes,
    which makes it a true convolution. Returns maps ``(batch, filters, rows, columns)``.

    Floor: ``2 * maps.size * filters[0].size`` FLOPs (less what meets padding); images read once and maps written
    once.
    """
    return _correlate2d(any_layout(images), any_layout(filters), stride, padding, dilation, groups, bool(flip))


@detached(gradient_signature)
@plain_part
def _correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    shape = (maps.shape[0], filters.shape[1] * groups, rows, columns)
    check_maps(shape, filters.shape, maps.shape, stride, padding, dilation, groups)
    images = new_array(shape, maps.dtype)
    if maps.size == 0 or filters.size == 0:
        images[:] = 0
    elif images.size > 0:
        grouped = split_groups(filters, groups)
        if flip:
            grouped = grouped[:, :, :, ::-1, ::-1]
        none, misfits = any_layout(no_winners()), integers(1)
        input_grad(none, no_windows(), misfits, maps, grouped, images, stride, padding, dilation)
    return images


@plain_kernel
def correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `correlate2d` with respect to images of ``rows`` by ``columns``, given that of its maps.

    The maps are correlated with filters whose roles of filter and channel are exchanged; for a stride, once for
    each residue of the images' rows and columns, with the taps that meet it. Floor: the FLOPs and bytes of
    `correlate2d`.
    """
    return _correlate2d_input_grad(
        any_layout(filters), any_layout(maps), rows, columns, stride, padding, dilation, groups, bool(flip)
    )
