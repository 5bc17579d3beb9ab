"""Correlation of images with filters, and its gradient with respect to the images.

Both are one algorithm, `_correlate_rows`, on different axes (see `packing`): a row of outputs at a time, the
input rows it reads kept packed in a ring, 16 (float32) or 8 images to a vector, register blocks of filters by
columns. No intermediate array grows with the images.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels.cpu.checks import SLIDING, check_correlation, check_maps, gradient_signature
from pytensor_convnet.kernels.cpu.column_reads import READS, reads_at
from pytensor_convnet.kernels.cpu.detached import chunked, detached
from pytensor_convnet.kernels.cpu.filter_packing import (
    FilterOrder,
    pack_filters,
    packed_filters_at,
    packed_filters_size,
    panel_size,
    split_groups,
    swap_roles,
)
from pytensor_convnet.kernels.cpu.input_rows import pack_rows
from pytensor_convnet.kernels.cpu.jit import any_layout, leaf_part, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.lane_pooling import WINNERS, new_pooled, no_windows, no_winners, unpool_inputs
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import MOST_OUTPUTS, transform_outputs
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    MOST_COLLECTED,
    TILING,
    as_images,
    block_filters,
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
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS, correlate_block
from pytensor_convnet.kernels.cpu.simd import finish_streaming
from pytensor_convnet.kernels.cpu.unpacking import RUN, STAGE, plan_stage, unpack_rows

__all__ = ["correlate2d", "correlate2d_input_grad"]


_BAND_TILES = 12
"""Tiles in all rows of a band: so many meet a panel of filters while it is in second-level cache."""


_FILTER_BYTES = 1 << 22
"""Transformed filters, of which all threads share one copy."""

_AHEAD_BYTES = 1 << 20
"""Packed input rows that are not needed yet."""


class RowPlan(NamedTuple):
    """How one group's outputs are computed and written."""

    filters: int
    channels: int
    groups: int
    band: int
    """Bases that are computed together."""
    ahead: int
    """Input rows that are packed before they are needed: a few at a time are read faster."""
    slots: int
    """Input rows that are kept packed."""
    depth: int
    """Most products that an output sums at a point."""


ROW_PLAN = types.NamedUniTuple(types.intp, 7, RowPlan)


@leaf_part
def _taps_in_images(base, row_phase, used, slots, rows):
    """The range of a phase's row taps that meet more than padding in some lane."""
    tap, stop = rows.starts[row_phase], rows.starts[row_phase + 1]
    top = base * rows.in_step - rows.first
    while tap < stop and not used[(top + rows.offsets[tap]) % slots]:
        tap += 1
    while tap < stop and not used[(top + rows.offsets[stop - 1]) % slots]:
        stop -= 1
    return tap, stop


@leaf_part
def _list_products(first, bases, row_phase, begin, end, used, rows, reads, plan, lanes, offsets, extents):
    """For each base of a band, write where in the packed rows the inputs of its products with reads ``begin`` to
    ``end`` are, in the order of packed filters, and which products meet more than padding: ``extents[2 * base]`` to
    ``extents[2 * base + 1]``.
    """
    for b in range(bases):
        tap, stop = _taps_in_images(first + b, row_phase, used, plan.slots, rows)
        earlier = (tap - rows.starts[row_phase]) * plan.channels * (end - begin)
        filled = b * plan.depth + earlier
        extents[2 * b] = earlier
        for t in range(tap, stop):
            slot = ((first + b) * rows.in_step + rows.offsets[t] - rows.first) % plan.slots
            for channel in range(plan.channels):
                start = (slot * plan.channels + channel) * reads.row_vectors
                for read in range(begin, end):
                    offsets[filled] = (start + reads.offsets[read]) * lanes
                    filled += 1
        extents[2 * b + 1] = filled - b * plan.depth


@leaf_part
def _correlate_point(
    point, bases, tiles, depth, packed, offsets, extents, weights, weights_at, out, out_at, steps, reads, plan
):  # fmt: skip
    """One value of each tile in a band of rows, for all filters: for the direct algorithm, the outputs themselves::

        for f in range(plan.filters):
            for base in range(bases):
                for tile in range(tiles):
                    out[base, f, tile, lane] = sum of weights[f, k] * packed[offsets[base, k] + point, tile, lane]
                        over products k

    Floor: a multiply-add of a vector for each trip of the nest, two a cycle; a register block of F filters and X
    columns loads F + X numbers for F * X of them. Measured on one core of a Zen 5 EPYC, float32, with everything in
    the first-level cache: 273 GFLOP/s.
    """
    base_step, filter_step, tile_step, lanes = steps
    column_blocks = ceil_div(tiles, MOST_COLUMNS[block_filters(plan.filters)])
    length = panel_size(depth)
    # At least one panel: an output that meets only padding is zero.
    for panel in range(0, max(1, depth), length):
        size = min(length, depth - panel)
        for b in range(bases):
            low, high = extents[2 * b], extents[2 * b + 1]
            start, stop = max(low, panel), min(high, panel + size)
            if start >= stop and panel > 0:
                continue
            for c in range(column_blocks):
                tile, next_tile = c * tiles // column_blocks, (c + 1) * tiles // column_blocks
                first = 0
                while first < plan.filters:
                    count = block_filters(plan.filters - first)
                    correlate_block(
                        count, next_tile - tile,
                        packed, (point * reads.places + tile * reads.tile_step) * lanes,
                        offsets, b * plan.depth + start, max(0, stop - start), reads.tile_step * lanes,
                        weights, weights_at + plan.filters * panel + first * size + (start - panel) * count,
                        out, out_at + b * base_step + first * filter_step + tile * tile_step, filter_step, tile_step,
                        start > low,
                    )  # fmt: skip
                    first += count


def _band_signature(number):
    integer, integers, numbers = types.intp, types.intp[::1], number[::1]
    return (
        integer, integer, integer, types.boolean[::1], numbers, integers, integers, numbers, numbers, numbers,
        integer, types.UniTuple(integer, 2), AXIS, AXIS, READS, ROW_PLAN,
    )  # fmt: skip


@detached(_band_signature, loops=True)
@leaf_part
def correlate_band(
    group, first, bases, used, packed, offsets, extents, weights, values, staged, at, steps, rows, columns, reads, plan
):  # fmt: skip
    """A band of rows of outputs in every lane, all phases and filters, to the stage."""
    lanes = VECTOR_BYTES // packed.itemsize
    step, row_step = steps
    order = FilterOrder(plan.groups, plan.filters, plan.channels)
    plane = reads.tiles * lanes
    for row_phase in range(rows.out_step):
        for column_phase in range(columns.out_step):
            row_taps = rows.starts[row_phase + 1] - rows.starts[row_phase]
            listed = (-1, -1)
            out_at = at + row_phase * row_step + column_phase * lanes
            outputs = ceil_div(row_step // lanes - column_phase, columns.out_step)
            tiles = ceil_div(outputs, reads.outputs)
            for point in range(reads.points):
                begin, end = reads_at(point, column_phase, reads)
                if (begin, end) != listed:
                    listed = (begin, end)
                    _list_products(
                        first, bases, row_phase, begin, end, used, rows, reads, plan, lanes, offsets, extents
                    )
                depth = row_taps * plan.channels * (end - begin)
                weights_at = packed_filters_at(group, row_phase, column_phase, point, rows, reads, order)
                if reads.points == 1:
                    _correlate_point(
                        point, bases, tiles, depth, packed, offsets, extents, weights, weights_at,
                        staged, out_at, (rows.out_step * row_step, step, columns.out_step * lanes, lanes), reads, plan,
                    )  # fmt: skip
                else:
                    _correlate_point(
                        point, bases, tiles, depth, packed, offsets, extents, weights, weights_at,
                        values, point * plane,
                        (plan.filters * reads.points * plane, reads.points * plane, lanes, lanes), reads, plan,
                    )  # fmt: skip
            if reads.points > 1:
                for b in range(bases):
                    for f in range(plan.filters):
                        _turn_row(
                            values, (b * plan.filters + f) * reads.points * plane, outputs,
                            staged, out_at + b * rows.out_step * row_step + f * step, columns.out_step * lanes, reads,
                        )  # fmt: skip


@leaf_part
def _turn_row(values, at, outputs, staged, out_at, out_step, reads):
    """A row of ``outputs`` columns from its tiles' values. The last tile may hang over the row."""
    lanes = VECTOR_BYTES // values.itemsize
    whole = outputs // reads.outputs
    plane, tile_step = reads.tiles * lanes, reads.outputs * out_step
    transform_outputs(reads.form, values, at, plane, lanes, staged, out_at, out_step, tile_step, whole)
    rest = outputs - whole * reads.outputs
    if rest > 0:
        last = values.size - MOST_OUTPUTS * lanes
        transform_outputs(reads.form, values, at + whole * lanes, plane, lanes, values, last, lanes, 0, 1)
        for i in range(rest):
            to = out_at + whole * tile_step + i * out_step
            for lane in range(lanes):
                staged[to + lane] = values[last + i * lanes + lane]


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
                compute it with _correlate_band
            write the rows

    Row taps that meet only padding are left out. With ``windows`` the source is the pooled gradient of the maps to
    read, which are made from it and its ``winners``; ``misfits[chunk]`` counts winners that do not fit.

    Floor: what `_correlate_point` takes, and for memory, reading the source once and writing the outputs once.
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


@leaf_part
def plan_rows(groups, filters, channels, rows, columns, reads, tiling):
    """The plan for a tiling and reads."""
    band = max(1, min(_BAND_TILES // reads.tiles, tiling.rows))
    most_reads, most_taps = 0, 0
    for phase in range(columns.out_step):
        most_reads = max(most_reads, reads.first[phase + 1] - reads.first[phase])
    for phase in range(rows.out_step):
        most_taps = max(most_taps, rows.starts[phase + 1] - rows.starts[phase])
    slots = (band - 1) * rows.in_step + rows.span
    row_bytes = channels * reads.row_vectors * VECTOR_BYTES
    wanted = ceil_div(RUN, columns.inputs) - band * rows.in_step
    ahead = max(0, min(wanted, _AHEAD_BYTES // row_bytes, tiling.rows * rows.in_step))
    return RowPlan(filters, channels, groups, band, ahead, slots + ahead, channels * most_taps * most_reads)


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
