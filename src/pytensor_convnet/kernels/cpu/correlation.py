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
from pytensor_convnet.kernels.cpu.detached import chunked, detached, inner_kernel
from pytensor_convnet.kernels.cpu.filter_grad import correlate2d_filter_grad
from pytensor_convnet.kernels.cpu.filter_packing import pack_filters, split_groups, swap_roles
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    TILING,
    aim_at_row,
    block_filters,
    ceil_div,
    choose_tiling,
    correlation_axis,
    gradient_axis,
    inputs_read,
    new_runs,
    new_tiles,
    pack_row,
    place_tiles,
    unpack_row,
    useful_threads,
    vectors,
)
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS, correlate_block
from pytensor_convnet.kernels.cpu.simd import VECTOR_BYTES

__all__ = ["correlate2d", "correlate2d_filter_grad", "correlate2d_input_grad"]


class Sizes(NamedTuple):
    """Channels read and filters applied in each of the groups, and the bytes of a number."""

    groups: int
    channels: int
    filters: int
    item_bytes: int


@inner_kernel
def _taps_in_images(base, row_phase, used, rows):
    """The range of a phase's row taps that meet more than padding in some lane."""
    tap, stop = rows.starts[row_phase], rows.starts[row_phase + 1]
    top = base * rows.in_step - rows.first
    while tap < stop and not used[(top + rows.offsets[tap]) % rows.span]:
        tap += 1
    while tap < stop and not used[(top + rows.offsets[stop - 1]) % rows.span]:
        stop -= 1
    return tap, stop


@inner_kernel
def _list_offsets(base, tap, stop, width, rows, columns, sizes, offsets):
    """Write where in the ring the inputs of row taps ``tap`` to ``stop`` are, in the order of packed filters."""
    lanes = VECTOR_BYTES // sizes.item_bytes
    filled = 0
    for column_phase in range(columns.out_step):
        for t in range(tap, stop):
            slot = (base * rows.in_step + rows.offsets[t] - rows.first) % rows.span
            for channel in range(sizes.channels):
                for offset in columns.offsets[columns.starts[column_phase] : columns.starts[column_phase + 1]]:
                    column = offset - columns.first
                    offsets[filled] = ((slot * sizes.channels + channel) * width + column) * lanes
                    filled += 1


@inner_kernel(inline="always")
def _correlate_row(
    group, row_phase, tap, stop, first, count, ring, weights, block, offsets, rows, columns, tiling, sizes
):
    """One row of outputs in every lane, for the block of ``count`` filters from ``first`` on::

        for f in range(count):
            for x in range(tiling.columns * columns.out_step):
                block[f, x, lane] = sum of weights[f, k] * ring[offsets[k] + x, lane]
                    over k, that is row tap, channel, column tap

    Floor: a multiply-add of a vector for each trip of the nest, two a cycle; a register block of F filters and X
    columns loads F + X numbers for F * X of them. Measured on one core of a Zen 5 EPYC, float32, with everything in
    the first-level cache: 273 GFLOP/s.
    """
    lanes = VECTOR_BYTES // sizes.item_bytes
    row_taps = rows.starts[row_phase + 1] - rows.starts[row_phase]
    out_width = tiling.columns * columns.out_step
    phase_at = sizes.filters * sizes.channels * (group * rows.taps.size + rows.starts[row_phase]) * columns.taps.size
    column_blocks = ceil_div(tiling.columns, MOST_COLUMNS[count])
    offsets_at = 0
    for column_phase in range(columns.out_step):
        column_taps = columns.starts[column_phase + 1] - columns.starts[column_phase]
        earlier_filters = sizes.filters * columns.starts[column_phase] + first * column_taps
        skipped = (tap - rows.starts[row_phase]) * column_taps * count
        weights_at = phase_at + sizes.channels * (row_taps * earlier_filters + skipped)
        trips = (stop - tap) * sizes.channels * column_taps
        for c in range(column_blocks):
            column = c * tiling.columns // column_blocks
            correlate_block(
                count, (c + 1) * tiling.columns // column_blocks - column,
                ring, column * columns.in_step * lanes, offsets, offsets_at, trips, columns.in_step * lanes,
                weights, weights_at,
                block, (column * columns.out_step + column_phase) * lanes, out_width * lanes, columns.out_step * lanes,
            )  # fmt: skip
        offsets_at += trips


def _rows_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    sizes = types.NamedUniTuple(types.intp, 4, Sizes)
    return images, number[::1], number[:, :, :, ::1], AXIS, AXIS, TILING, sizes


@chunked(_rows_signature)
@inner_kernel
def _correlate_rows(chunk, chunks, source, weights, out, rows, columns, tiling, sizes):
    """Chunk ``chunk`` of all rows of outputs, a row of every lane in a group of lanes at a time::

        for group: for lane group: for base row:
            pack the input rows it reads that the ring does not hold yet
            for row_phase: for block of filters:
                compute the row with _correlate_row
                unpack it

    Row taps that meet only padding are left out. Floor: what `_correlate_row` takes, and for memory, reading the
    source once and writing the outputs once. Measured there, as a fraction of 273 GFLOP/s with nominal FLOPs: 0.83
    for cifar2, 0.98 for cifar3 (whose padding is skipped), 0.79 for alex1, 0.69 for lenet2; 0.21 for lenet1, which
    writes 23 MB for its 288 MFLOP.
    """
    lanes = VECTOR_BYTES // source.itemsize
    width = inputs_read(columns, tiling.columns)
    row_vectors = sizes.channels * width
    ring, used = vectors(rows.span * row_vectors, source), np.empty(rows.span, np.bool_)
    out_width = tiling.columns * columns.out_step
    block = vectors(MOST_FILTERS * out_width + lanes, source)
    offsets = np.empty(sizes.channels * rows.taps.size * columns.taps.size, np.int64)
    tiles, runs = new_tiles(lanes), new_runs(lanes)

    units = sizes.groups * tiling.lane_groups * tiling.rows
    unit, last = chunk * units // chunks, (chunk + 1) * units // chunks
    while unit < last:
        part, start = divmod(unit, tiling.rows)
        group, lane_group = divmod(part, tiling.lane_groups)
        place_tiles(tiling, lane_group, tiles)
        packed = start * rows.in_step
        stop = min(tiling.rows, start + last - unit)
        for base in range(start, stop):
            top = base * rows.in_step
            for row in range(max(packed, top), top + rows.span):
                slot = row % rows.span
                used[slot] = pack_row(
                    source, tiles, rows, columns, row, width, group * sizes.channels, sizes.channels,
                    ring, slot * row_vectors * lanes, width * lanes, runs,
                )  # fmt: skip
            packed = top + rows.span
            for row_phase in range(rows.out_step):
                tap, tap_stop = _taps_in_images(base, row_phase, used, rows)
                _list_offsets(base, tap, tap_stop, width, rows, columns, sizes, offsets)
                aim_at_row(out, tiles, rows, columns, tiling.columns, base, row_phase, runs)
                first = 0
                while first < sizes.filters:
                    count = block_filters(sizes.filters - first)
                    _correlate_row(
                        group, row_phase, tap, tap_stop, first, count,
                        ring, weights, block, offsets, rows, columns, tiling, sizes,
                    )  # fmt: skip
                    for f in range(count):
                        filter_ = group * sizes.filters + first + f
                        unpack_row(block, f * out_width * lanes, out_width, out, filter_, runs)
                    first += count
        unit += stop - start


@inner_kernel
def _correlate(source, filters, out, rows, columns):
    """Correlate with filters ``(groups, filters, channels, rows, columns)`` along the given axes."""
    weights = np.empty(filters.size, source.dtype)
    pack_filters(filters, rows, columns, weights)
    sizes = Sizes(filters.shape[0], filters.shape[2], filters.shape[1], filters.itemsize)
    lanes = VECTOR_BYTES // source.itemsize
    tiling = choose_tiling(source.shape[0], lanes, rows, columns, sizes.channels, sizes.filters)
    bases = tiling.rows * tiling.row_tiles * tiling.columns * tiling.column_tiles
    threads = useful_threads(source.shape[0] * bases * filters.size)
    _correlate_rows(threads, source, weights, out, rows, columns, tiling, sizes)


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
    maps = np.empty(shape, images.dtype)
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
    images = np.empty(shape, maps.dtype)
    if images.size > 0:
        grouped = split_groups(filters, groups)
        if flip:
            grouped = grouped[:, :, :, ::-1, ::-1]
        _input_grad(any_layout(maps), grouped, images, stride, padding, dilation)
    return images
