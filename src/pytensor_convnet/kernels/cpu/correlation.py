"""Correlation of images with filters, and its gradient with respect to the images.

Both are one algorithm, `_correlate_rows`, on different axes (see `packing`): a row of outputs at a time, the
input rows it reads kept packed in a ring, 16 (float32) or 8 images to a vector, register blocks of filters by
columns. No intermediate array grows with the images.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels.cpu.checks import check_correlation, check_maps
from pytensor_convnet.kernels.cpu.column_reads import READS
from pytensor_convnet.kernels.cpu.detached import chunked, detached, inner_kernel, leaf_kernel
from pytensor_convnet.kernels.cpu.filter_packing import (
    FilterOrder,
    pack_filters,
    packed_filters_at,
    packed_filters_size,
    split_groups,
    swap_roles,
)
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel
from pytensor_convnet.kernels.cpu.memory import new_output
from pytensor_convnet.kernels.cpu.minimal_filtering import transform_outputs
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    TILING,
    block_filters,
    ceil_div,
    correlation_axis,
    gradient_axis,
    new_runs,
    new_tiles,
    pack_row,
    place_tiles,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.planning import plan_pass
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS, correlate_block
from pytensor_convnet.kernels.cpu.simd import VECTOR_BYTES, finish_streaming
from pytensor_convnet.kernels.cpu.unpacking import (
    STREAMED_BYTES,
    band_of_stage,
    rows_of_run,
    stage_pitch,
    unpack_rows,
)

__all__ = ["correlate2d", "correlate2d_input_grad"]


_PANEL = 192
"""Products that a register block adds up at a time: what it reads of the inputs then stays in first-level cache
while one block of filters after the other meets it."""


class Plan(NamedTuple):
    """How one group's outputs are computed and written."""

    filters: int
    channels: int
    groups: int
    pitch: int
    """Columns of a row on the stage."""
    band: int
    """Bases whose outputs wait on the stage."""
    run_rows: int
    """Rows that leave it together."""
    streaming: bool


@leaf_kernel
def _taps_in_images(base, row_phase, used, rows):
    """The range of a phase's row taps that meet more than padding in some lane."""
    tap, stop = rows.starts[row_phase], rows.starts[row_phase + 1]
    top = base * rows.in_step - rows.first
    while tap < stop and not used[(top + rows.offsets[tap]) % rows.span]:
        tap += 1
    while tap < stop and not used[(top + rows.offsets[stop - 1]) % rows.span]:
        stop -= 1
    return tap, stop


@leaf_kernel
def _list_offsets(base, tap, stop, column_phase, rows, reads, channels, offsets):
    """Write where in the ring the inputs of row taps ``tap`` to ``stop`` are, in the order of packed filters."""
    lanes_and_vectors = offsets[-1]
    filled = 0
    for t in range(tap, stop):
        slot = (base * rows.in_step + rows.offsets[t] - rows.first) % rows.span
        for channel in range(channels):
            start = (slot * channels + channel) * reads.row_vectors
            for offset in reads.offsets[reads.first[column_phase] : reads.first[column_phase + 1]]:
                offsets[filled] = (start + offset) * lanes_and_vectors
                filled += 1
    return filled


@leaf_kernel
def _correlate_point(point, count, ring, offsets, weights, weights_at, skipped, depth, out, out_at, steps, reads, plan):
    """One value of each tile in a row, for all filters: for the direct algorithm, the outputs themselves::

        for f in range(plan.filters):
            for tile in range(reads.tiles):
                out[f, tile, lane] = sum of weights[f, k] * ring[offsets[k] + point, tile, lane]
                    over k, that is row tap, channel, read

    Floor: a multiply-add of a vector for each trip of the nest, two a cycle; a register block of F filters and X
    columns loads F + X numbers for F * X of them. Measured on one core of a Zen 5 EPYC, float32, with everything in
    the first-level cache: 273 GFLOP/s.
    """
    filter_step, tile_step, lanes = steps
    panels = max(1, ceil_div(count, _PANEL))
    for panel in range(panels):
        start, stop = panel * count // panels, (panel + 1) * count // panels
        column_blocks = ceil_div(reads.tiles, MOST_COLUMNS[min(plan.filters, MOST_FILTERS)])
        for c in range(column_blocks):
            tile, next_tile = c * reads.tiles // column_blocks, (c + 1) * reads.tiles // column_blocks
            first = 0
            while first < plan.filters:
                size = block_filters(plan.filters - first)
                correlate_block(
                    size, next_tile - tile,
                    ring, (point * reads.places + tile * reads.tile_step) * lanes, offsets, start, stop - start,
                    reads.tile_step * lanes, weights, weights_at + first * depth + (skipped + start) * size,
                    out, out_at + first * filter_step + tile * tile_step, filter_step, tile_step, panel > 0,
                )  # fmt: skip
                first += size


@leaf_kernel
def _correlate_row(group, base, row_phase, used, ring, offsets, weights, values, stage, at, step, rows, columns, reads, plan):
    """One row of outputs in every lane, of all column phases and filters, to the stage."""
    lanes = VECTOR_BYTES // ring.itemsize
    order = FilterOrder(plan.groups, plan.filters, plan.channels)
    tap, stop = _taps_in_images(base, row_phase, used, rows)
    for column_phase in range(columns.out_step):
        count = _list_offsets(base, tap, stop, column_phase, rows, reads, plan.channels, offsets)
        depth = plan.channels * (reads.first[column_phase + 1] - reads.first[column_phase])
        skipped = (tap - rows.starts[row_phase]) * depth
        depth *= rows.starts[row_phase + 1] - rows.starts[row_phase]
        out_at = at + column_phase * lanes
        for point in range(reads.points):
            weights_at = packed_filters_at(group, row_phase, column_phase, point, rows, reads, order)
            if reads.points == 1:
                _correlate_point(
                    point, count, ring, offsets, weights, weights_at, skipped, depth,
                    stage, out_at, (step, columns.out_step * lanes, lanes), reads, plan,
                )  # fmt: skip
            else:
                _correlate_point(
                    point, count, ring, offsets, weights, weights_at, skipped, depth,
                    values, point * reads.tiles * lanes, (reads.points * reads.tiles * lanes, lanes, lanes), reads, plan,
                )  # fmt: skip
        if reads.points > 1:
            for f in range(plan.filters):
                transform_outputs(
                    reads.form, values, f * reads.points * reads.tiles * lanes, reads.tiles * lanes, lanes,
                    stage, out_at + f * step, columns.out_step * lanes, reads.outputs * columns.out_step * lanes,
                    reads.tiles,
                )  # fmt: skip


def _rows_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    plan = types.NamedTuple((types.intp,) * 6 + (types.boolean,), Plan)
    return images, number[::1], number[:, :, :, ::1], AXIS, AXIS, READS, TILING, plan


@chunked(_rows_signature)
@inner_kernel
def _correlate_rows(chunk, chunks, source, weights, out, rows, columns, reads, tiling, plan):
    """Chunk ``chunk`` of all rows of outputs, a row of every lane in a group of lanes at a time::

        for group: for lane group: for band of rows:
            for base row: pack the input rows it reads that the ring does not hold yet
                for row_phase: compute the row with _correlate_row
            write the band

    Row taps that meet only padding are left out. Floor: what `_correlate_point` takes, and for memory, reading the
    source once and writing the outputs once.
    """
    lanes = VECTOR_BYTES // source.itemsize
    ring = vectors(rows.span * plan.channels * reads.row_vectors, source)
    raw = vectors(reads.width, source)
    used = np.empty(rows.span, np.bool_)
    values = vectors(plan.filters * reads.points * reads.tiles if reads.points > 1 else 0, source)
    # A tile may hang over its row by less than its outputs, and a run is turned by whole squares of lanes.
    room = reads.outputs * columns.out_step + columns.out_step * reads.tile_step + lanes
    step = (plan.band * rows.out_step * plan.pitch + room) * lanes
    stage = vectors(plan.filters * step // lanes, source)
    turned = vectors(ceil_div(plan.run_rows * plan.pitch, lanes) * lanes + 1, source)
    most_reads = 0
    for phase in range(columns.out_step):
        most_reads = max(most_reads, reads.first[phase + 1] - reads.first[phase])
    offsets = np.empty(plan.channels * rows.taps.size * most_reads + 1, np.int64)
    offsets[-1] = lanes
    tiles, runs = new_tiles(lanes), new_runs(lanes)

    units = plan.groups * tiling.lane_groups * tiling.rows
    unit, last = chunk * units // chunks, (chunk + 1) * units // chunks
    while unit < last:
        part, start = divmod(unit, tiling.rows)
        group, lane_group = divmod(part, tiling.lane_groups)
        place_tiles(tiling, lane_group, tiles)
        packed = start * rows.in_step
        stop = min(tiling.rows, start + last - unit)
        for first in range(start, stop, plan.band):
            bases = min(plan.band, stop - first)
            for base in range(first, first + bases):
                top = base * rows.in_step
                for row in range(max(packed, top), top + rows.span):
                    slot = row % rows.span
                    used[slot] = pack_row(
                        source, tiles, rows, columns, row, reads, group * plan.channels, plan.channels,
                        ring, slot * plan.channels * reads.row_vectors * lanes, reads.row_vectors * lanes, raw, runs,
                    )  # fmt: skip
                packed = top + rows.span
                for row_phase in range(rows.out_step):
                    at = ((base - first) * rows.out_step + row_phase) * plan.pitch * lanes
                    _correlate_row(
                        group, base, row_phase, used, ring, offsets, weights, values, stage, at, step,
                        rows, columns, reads, plan,
                    )  # fmt: skip
            unpack_rows(
                stage, step, first, bases, plan.filters, group * plan.filters, out, tiles, rows, columns,
                plan.pitch, plan.run_rows, runs, turned, plan.streaming,
            )  # fmt: skip
        unit += stop - start
    finish_streaming()


@inner_kernel
def _correlate(source, filters, out, rows, columns):
    """Correlate with filters ``(groups, filters, channels, rows, columns)`` along the given axes."""
    groups, count, channels = filters.shape[:3]
    tiling, reads = plan_pass(source.shape[0], rows, columns, channels, count, source.itemsize)
    bases = tiling.rows * tiling.row_tiles * tiling.columns * tiling.column_tiles
    threads = useful_threads(source.shape[0] * bases * filters.size)
    order = FilterOrder(groups, count, channels)
    weights = np.empty(packed_filters_size(rows, reads, order), source.dtype)
    pack_filters(threads, filters, rows, reads, order, weights)
    pitch = stage_pitch(columns, tiling)
    band = band_of_stage(count, rows, pitch, tiling, source.itemsize)
    run_rows = rows_of_run(band, rows, pitch, tiling)
    plan = Plan(count, channels, groups, pitch, band, run_rows, out.nbytes >= STREAMED_BYTES)
    _correlate_rows(threads, source, weights, out, rows, columns, reads, tiling, plan)


def _pass_signature(number):
    source, filters = (types.Array(number, axes, "A", readonly=True) for axes in (4, 5))
    pair = types.UniTuple(types.intp, 2)
    return source, filters, number[:, :, :, ::1], pair, types.UniTuple(pair, 2), pair


@detached(_pass_signature)
@inner_kernel
def _forward(images, filters, maps, stride, padding, dilation):
    taps, before = filters.shape[3:], (padding[0][0], padding[1][0])
    rows = correlation_axis(maps.shape[2], images.shape[2], taps[0], stride[0], before[0], dilation[0])
    columns = correlation_axis(maps.shape[3], images.shape[3], taps[1], stride[1], before[1], dilation[1])
    _correlate(images, filters, maps, rows, columns)


@detached(_pass_signature)
@inner_kernel
def _input_grad(maps, filters, images, stride, padding, dilation):
    taps, before = filters.shape[3:], (padding[0][0], padding[1][0])
    rows = gradient_axis(images.shape[2], maps.shape[2], taps[0], stride[0], before[0], dilation[0])
    columns = gradient_axis(images.shape[3], maps.shape[3], taps[1], stride[1], before[1], dilation[1])
    _correlate(maps, swap_roles(filters), images, rows, columns)


@kernel
def correlate2d(images, filters, stride, padding, dilation, groups, flip):
    """Correlate images ``(batch, channels, rows, columns)`` with filters ``(filters, channels // groups, rows,
    columns)``.

    ``padding`` is ``((top, bottom), (left, right))``; ``flip`` reads the filters reversed on both spatial axes,
    which makes it a true convolution. Returns maps ``(batch, filters, rows, columns)``.

    Floor: ``2 * maps.size * filters[0].size`` FLOPs (less what meets padding); images read once and maps written
    once.
    """
    check_correlation(images.shape, filters.shape, stride, padding, dilation, groups)
    (top, bottom), (left, right) = padding
    rows = correlation_length(images.shape[2], filters.shape[2], stride[0], top, bottom, dilation[0])
    columns = correlation_length(images.shape[3], filters.shape[3], stride[1], left, right, dilation[1])
    shape = (images.shape[0], filters.shape[0], rows, columns)
    if images.size == 0 or filters.size == 0:
        return np.zeros(shape, images.dtype)
    maps = new_output(shape, images.dtype)
    grouped = split_groups(filters, groups)
    if flip:
        grouped = grouped[:, :, :, ::-1, ::-1]
    _forward(any_layout(images), grouped, maps, stride, padding, dilation)
    return maps


@kernel
def correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `correlate2d` with respect to images of ``rows`` by ``columns``, given that of its maps.

    The maps are correlated with filters whose roles of filter and channel are exchanged; for a stride, once for
    each residue of the images' rows and columns, with the taps that meet it. Floor: the FLOPs and bytes of
    `correlate2d`.
    """
    shape = (maps.shape[0], filters.shape[1] * groups, rows, columns)
    check_maps(shape, filters.shape, maps.shape, stride, padding, dilation, groups)
    if maps.size == 0 or filters.size == 0:
        return np.zeros(shape, maps.dtype)
    images = new_output(shape, maps.dtype)
    if images.size > 0:
        grouped = split_groups(filters, groups)
        if flip:
            grouped = grouped[:, :, :, ::-1, ::-1]
        _input_grad(any_layout(maps), grouped, images, stride, padding, dilation)
    return images
