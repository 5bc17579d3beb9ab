"""Choosing how a pass is computed: the tiles that lanes hold, and the form of minimal filtering.

All candidates are costed by a model of the loops, in cycles of one core, and the cheapest is taken. Nothing is
measured at run time, so that a result never depends on what else the machine was doing.
"""

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.column_reads import READS, plan_reads, reads_at
from pytensor_convnet.kernels.cpu.detached import NO_ARRAYS, detached
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import MULTIPLY_ADDS, VECTOR_BYTES
from pytensor_convnet.kernels.cpu.minimal_filtering import FORM_OUTPUTS, FORM_TAPS
from pytensor_convnet.kernels.cpu.packing import AXIS, TILING, Tiling, block_filters, ceil_div, inputs_read
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS

_BLOCK_CYCLES = 40
"""To start and end a register block."""

_LATENCY = 4
"""Of a multiply-add: a block of fewer than eight accumulators waits for it."""

_PACKING_CYCLES = 12
"""To pack a vector, or to write one to images."""

_RUN_CYCLES = 20
"""To start a run of outputs that is no whole number of cache lines."""

_TRANSFORM_CYCLES = 1.5
"""For each value that a transform makes."""

_WORKING_BYTES = 3 << 20
"""Packed rows and sums of a thread; more is charged by half."""

_MANY_GROUPS = 4
"""A batch of more lane groups loses little by lanes that are idle in the last; one of fewer may be cut so far."""

_LEAST_SAVING = 0.93
"""A form must promise to take at most this part of the direct algorithm's time: estimates are not that good."""


@leaf_part
def _block_cycles(filters, columns):
    """For each product that a register block adds up: multiply-adds, and loads, two a cycle."""
    return max(filters * columns / MULTIPLY_ADDS, (filters + columns + 1) / 2, _LATENCY)


@leaf_part
def _point_cycles(depth, filters, tiles):
    """To multiply a row of tiles, at one point, with all filters; each is a sum of ``depth`` products."""
    column_blocks = ceil_div(tiles, MOST_COLUMNS[min(filters, MOST_FILTERS)])
    wide = tiles % column_blocks
    narrow = tiles // column_blocks
    total, first = 0.0, 0
    while first < filters:
        size = block_filters(filters - first)
        total += column_blocks * _BLOCK_CYCLES
        total += depth * wide * _block_cycles(size, narrow + 1)
        total += depth * (column_blocks - wide) * _block_cycles(size, narrow)
        first += size
    return total


@plain_part
def _row_cycles(rows, columns, tile_columns, channels, filters, form, products):
    """For a row of bases in one lane group, and the bytes that it works in."""
    outputs, taps = FORM_OUTPUTS[form], FORM_TAPS[form]
    points, step = outputs + taps - 1, columns.in_step
    parts = ceil_div(ceil_div(columns.span, step), taps)
    tiles = ceil_div(tile_columns, outputs)
    places = tiles if parts == 1 else (tiles - 1) * max(1, outputs // taps) + (parts - 1) * max(1, taps // outputs) + 1
    in_vectors = step * points * places if points > 1 else inputs_read(columns, tile_columns)
    out_vectors = points * tiles * columns.out_step if points > 1 else tile_columns * columns.out_step
    depth = channels * rows.taps.size * products / (points * rows.out_step * columns.out_step)
    total = rows.out_step * columns.out_step * points * _point_cycles(depth, filters, tiles)
    packed, written = channels * rows.in_step, filters * rows.out_step
    total += _PACKING_CYCLES * packed * inputs_read(columns, tile_columns)
    total += _PACKING_CYCLES * written * tile_columns * columns.out_step
    if tile_columns * columns.out_step < columns.outputs:
        # Runs of a single row, cut anywhere: parts of cache lines.
        total += _RUN_CYCLES * written * VECTOR_BYTES / 4
    if points > 1:
        total += _TRANSFORM_CYCLES * (packed * in_vectors + written * out_vectors)
    return total, VECTOR_BYTES * (rows.span * channels * in_vectors + filters * out_vectors)


@leaf_part
def _fits(columns, form):
    """Whether a form can do an axis: if it cuts filters into parts, these must share transformed inputs."""
    outputs, taps = FORM_OUTPUTS[form], FORM_TAPS[form]
    one_part = ceil_div(columns.span, columns.in_step) <= taps
    return one_part or outputs % taps == 0 or taps % outputs == 0


@leaf_part
def _products(reads):
    """Products of a channel and row tap that a tile sums, at all points of all phases."""
    total = 0
    for phase in range(reads.first.size - 1):
        for point in range(reads.points):
            begin, end = reads_at(point, phase, reads)
            total += end - begin
    return total


def _signature():
    integer = types.intp
    return types.Tuple((TILING, READS))(integer, AXIS, AXIS, integer, integer, integer, types.boolean)


@detached(_signature, NO_ARRAYS, loops=True)
@plain_part
def plan_pass(batch, rows, columns, channels, filters, item_bytes, whole):
    """The tiling and the reads that promise to be fastest; float64 keeps to the direct algorithm's accuracy.

    A batch that fills the lanes takes an image a lane. A smaller one, or one with a small rest, is cut into tiles, so
    that few lanes are idle, and wide images into columns, so that what a row needs stays small; but not where images
    must stay ``whole``.
    """
    lanes = VECTOR_BYTES // item_bytes
    all_rows, all_columns = ceil_div(rows.outputs, rows.out_step), ceil_div(columns.outputs, columns.out_step)
    most_tiles = ceil_div(2 * lanes, batch)
    if batch % lanes > 0 and batch < _MANY_GROUPS * lanes:
        most_tiles = max(most_tiles, _MANY_GROUPS)
    least, best_form = np.inf, 0
    best = Tiling(batch, all_rows, all_columns, 1, 1, ceil_div(batch, lanes))
    for form in range(FORM_TAPS.size if item_bytes == 4 else 1):
        if not _fits(columns, form):
            continue
        products = _products(plan_reads(columns, 1, form))
        for column_tiles in range(1, 2 if whole else min(all_columns, max(8, most_tiles)) + 1):
            tile_columns = ceil_div(all_columns, column_tiles)
            cycles, nbytes = _row_cycles(rows, columns, tile_columns, channels, filters, form, products)
            if nbytes > _WORKING_BYTES:
                cycles *= 1.5
            if form > 0:
                cycles /= _LEAST_SAVING
            for row_tiles in range(1, 2 if whole else min(all_rows, most_tiles) + 1):
                tile_rows = ceil_div(all_rows, row_tiles)
                groups = ceil_div(batch * row_tiles * column_tiles, lanes)
                halo = (rows.span - rows.in_step) * channels * inputs_read(columns, tile_columns) * _PACKING_CYCLES
                total = groups * (tile_rows * cycles + halo)
                if total < least:
                    least, best_form = total, form
                    best = Tiling(batch, tile_rows, tile_columns, row_tiles, column_tiles, groups)
    return best, plan_reads(columns, best.columns, best_form)
