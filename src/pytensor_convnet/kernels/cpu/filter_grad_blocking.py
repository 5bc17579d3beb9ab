"""How a filter gradient is cut into tasks: blocks of filters and channels, bands of rows, and slices of all bands."""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import MULTIPLY_ADDS, VECTOR_BYTES
from pytensor_convnet.kernels.cpu.packing import ceil_div, inputs_read
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, MOST_FILTERS

_BAND_POSITIONS = 72
"""Tiles of output rows that a register block should sum over: enough to pay for adding up its lanes, few enough for
most of the maps of its filters to stay in first-level cache."""

_BAND_BYTES = 1 << 22
"""Packed images and maps of a band, all points."""

_PACKING_CYCLES = 14
"""To pack a vector."""

_BLOCK_CYCLES = 90
"""To start a register block and to add up its lanes at the end."""

_TASKS = 32
"""Pieces into which the work is cut. Fixed, so that the order of summation, and with it the result, does not
depend on the number of threads."""

PARTIAL_BYTES = 7 << 20
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


BLOCKING = types.NamedUniTuple(types.intp, 7, Blocking)


@leaf_part
def piece(number, pieces, total):
    """First and size of piece ``number`` of ``total`` things in so many pieces."""
    first = number * total // pieces
    return first, (number + 1) * total // pieces - first


@leaf_part
def _fewest_blocks(bands, filters, channels, rows, reads, tiling):
    """Filter and channel blocks for so many bands, as large as memory allows."""
    band_rows = ceil_div(tiling.rows, bands)
    image_vectors = inputs_read(rows, band_rows) * reads.row_vectors
    map_vectors = band_rows * reads.points * reads.tiles
    most = _BAND_BYTES // VECTOR_BYTES
    # Half for either, or what the other leaves.
    some_channels = max(1, min(channels, max(most // 2, most - filters * map_vectors) // image_vectors))
    some_filters = max(MOST_FILTERS, min(filters, (most - some_channels * image_vectors) // map_vectors))
    return ceil_div(filters, some_filters), ceil_div(channels, some_channels)


@leaf_part
def _cycles(blocking, rows, reads, tiling):
    """Of a group and lane group: multiply-adds, register blocks, and packing, for every block is packed anew for all
    others that it meets. An odd number of tasks leaves one of two threads idle during the last."""
    groups, filters, channels, filter_blocks, channel_blocks, bands, slices = blocking
    band_rows = ceil_div(tiling.rows, bands)
    packed = filter_blocks * channels * inputs_read(rows, band_rows) * reads.row_vectors
    packed += channel_blocks * filters * band_rows * reads.points * reads.tiles
    products = channels * rows.taps.size * reads.offsets.size
    register_blocks = reads.points * ceil_div(filters, MOST_FILTERS) * ceil_div(products, MOST_COLUMNS[MOST_FILTERS])
    cycles = reads.points * filters * products * tiling.rows * reads.tiles / MULTIPLY_ADDS
    cycles += bands * (_PACKING_CYCLES * packed + _BLOCK_CYCLES * register_blocks)
    tasks = groups * filter_blocks * channel_blocks * slices
    return cycles * (tasks + 1) / tasks if tasks % 2 == 1 and tasks > 1 else cycles


@plain_part
def choose_blocking(groups, filters, channels, rows, reads, tiling, item_bytes):
    """The cheapest bands and blocks, and slices, to make at most `_TASKS` tasks."""
    fewest = ceil_div(tiling.rows, max(1, _BAND_POSITIONS // reads.tiles))
    sums = groups * filters * channels * rows.taps.size * reads.offsets.size * reads.points
    affordable = PARTIAL_BYTES // (sums * item_bytes)
    least, best = np.inf, Blocking(groups, filters, channels, 1, 1, 1, 1)
    for bands in range(fewest, tiling.rows + 1):
        filter_blocks, channel_blocks = _fewest_blocks(bands, filters, channels, rows, reads, tiling)
        for more in range(2):
            blocks = min(channels, channel_blocks + more)
            tasks = groups * filter_blocks * blocks
            slices = max(1, min(tiling.lane_groups * bands, _TASKS // tasks, affordable))
            blocking = Blocking(groups, filters, channels, filter_blocks, blocks, bands, slices)
            cycles = _cycles(blocking, rows, reads, tiling)
            if cycles < least:
                best, least = blocking, cycles
    return best
