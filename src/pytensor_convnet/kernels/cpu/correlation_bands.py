"""Bands of rows of a correlation: outputs of all filters, from packed input rows to the stage."""

from typing import NamedTuple

from numba import types

from pytensor_convnet.kernels.cpu.column_reads import READS, reads_at
from pytensor_convnet.kernels.cpu.detached import detached
from pytensor_convnet.kernels.cpu.filter_packing import FilterOrder, packed_filters_at, panel_size
from pytensor_convnet.kernels.cpu.jit import leaf_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.minimal_filtering import MOST_OUTPUTS, transform_outputs
from pytensor_convnet.kernels.cpu.packing import AXIS, block_filters, ceil_div
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, correlate_block
from pytensor_convnet.kernels.cpu.unpacking import RUN

_BAND_TILES = 12
"""Tiles in all rows of a band: so many meet a panel of filters while it is in second-level cache."""

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
