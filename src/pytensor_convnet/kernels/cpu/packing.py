"""Images in lanes: which tile of which image each vector lane holds, and copying rows there and back.

A lane holds a *tile*: an image, or a rectangle of its output positions together with all the input that these
positions read. A full batch takes one tile an image; a batch smaller than the lanes cuts images into more
tiles, so that no lane is idle. Tiles of one *lane group* are computed together, one in each lane.

Along an axis, output position ``base * out_step + phase`` reads the input positions ``base * in_step +
offset``, for the offsets of that phase. A correlation has one phase, an ``in_step`` of its stride and an offset
for each tap. Its gradient has as many phases as the stride, an ``in_step`` of 1, and each tap in the one phase
where it meets the maps: so a strided gradient, too, is a few dense correlations. `Axis` holds those numbers.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from pytensor_convnet.geometry import dilated_length
from pytensor_convnet.kernels.cpu.detached import FLOATS
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, array_data, bytes_of, int64
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.register_blocks import BLOCK_FILTERS
from pytensor_convnet.kernels.cpu.simd import copy_run, copy_vectors, fetch_run, gather_lanes, numbers_to_lanes
from pytensor_convnet.kernels.cpu.structures import array_fields, view
from pytensor_convnet.kernels.cpu.threads import thread_count

_COLLECTED_BYTES = 256
"""Run of an image that is worth copying."""

_CACHE_LINE, _CACHE_PERIOD = 64, 4096
"""Bytes of a cache line, and from one to the next that has the same place in a first-level cache."""

MOST_COLLECTED = 2048
"""Numbers of each lane that are collected at a time, so that they stay in cache."""

_WORK_OF_A_THREAD = 500_000
"""Multiply-adds below which another thread costs more than it brings."""


class Axis(NamedTuple):
    """What outputs read along one axis; see the module's docstring."""

    outputs: int
    inputs: int
    out_step: int
    in_step: int
    first: int
    """The smallest offset."""
    span: int
    """Input positions from the smallest to the largest offset."""
    starts: np.ndarray
    """``starts[phase]:starts[phase + 1]`` is the part of ``taps`` and ``offsets`` for a phase."""
    taps: np.ndarray
    """Places in the filter."""
    offsets: np.ndarray
    """Ascending within a phase."""


class Tiling(NamedTuple):
    """How images are cut into tiles; ``rows`` and ``columns`` of a tile count bases, not outputs."""

    batch: int
    rows: int
    columns: int
    row_tiles: int
    column_tiles: int
    lane_groups: int


AXIS = types.NamedTuple((types.intp,) * 6 + (types.intp[::1],) * 3, Axis)
TILING = types.NamedUniTuple(types.intp, 6, Tiling)


class Tiles(NamedTuple):
    """The tile of each lane: its image (-1 for none) and its first base row and column."""

    images: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


class Runs(NamedTuple):
    """A run of columns of each lane's image, for several rows: the byte it starts at, and which of its columns exist.

    Entry ``row * lanes + lane``.
    """

    starts: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    spans: np.ndarray
    """For each row, five numbers: the columns that exist in some lane, from and to, and those
    that exist in all; and whether lanes lie side by side in memory."""


TILES = types.NamedUniTuple(types.intp[::1], 3, Tiles)
RUNS = types.NamedUniTuple(types.intp[::1], 4, Runs)


@leaf_part
def follow_each_other(array):
    """Whether an array's numbers lie in memory in order, without gaps."""
    step, adjacent = array.itemsize, True
    for axis in range(3, -1, -1):
        adjacent &= array.strides[axis] == step
        step *= array.shape[axis]
    return adjacent


@plain_part
def integers(count):
    """Uninitialised memory for so many integers."""
    return new_array((count,), np.int64)


@plain_part
def correlation_axis(outputs, inputs, taps, stride, before, dilation):
    """The axis of a correlation: its outputs read images."""
    starts, numbers, offsets = integers(2), integers(taps), integers(taps)
    starts[0], starts[1] = 0, taps
    for tap in range(taps):
        numbers[tap], offsets[tap] = tap, tap * dilation - before
    return Axis(outputs, inputs, 1, stride, -before, dilated_length(taps, dilation), starts, numbers, offsets)


@plain_part
def gradient_axis(outputs, inputs, taps, stride, before, dilation):
    """The axis of a correlation's input gradient: its outputs are images, and it reads maps."""
    starts, numbers, offsets = integers(stride + 1), integers(taps), integers(taps)
    found = 0
    for phase in range(stride):
        starts[phase] = found
        for tap in range(taps - 1, -1, -1):
            position = phase + before - tap * dilation
            if position % stride == 0:
                numbers[found] = tap
                offsets[found] = position // stride
                found += 1
    starts[stride] = found
    first, last = offsets[0], offsets[0]
    for offset in offsets:
        first, last = min(first, offset), max(last, offset)
    return Axis(outputs, inputs, stride, 1, first, last - first + 1, starts, numbers, offsets)


@plain_part
def plain_axis(length):
    """An axis whose outputs read the input at their own place."""
    return correlation_axis(length, length, 1, 1, 0, 1)


@leaf_part
def inputs_read(axis, bases):
    """Input positions that ``bases`` consecutive bases read."""
    return (bases - 1) * axis.in_step + axis.span


@leaf_part
def ceil_div(a, b):
    return -(-a // b)


@leaf_part
def block_filters(filters):
    """Filters of the next register block when so many are left."""
    for size in BLOCK_FILTERS:
        if size <= filters:
            return size
    return 0


@plain_part
def useful_threads(multiply_adds):
    """Threads worth waking for this many multiply-adds."""
    return max(1, min(thread_count(), multiply_adds // _WORK_OF_A_THREAD))


@plain_part
def vectors(count, like):
    """Uninitialised memory for ``count`` vectors of the dtype of ``like``, as a flat aligned array."""
    return new_array((count * (VECTOR_BYTES // like.itemsize),), like.dtype)


@plain_part
def new_tiles(lanes):
    return Tiles(integers(lanes), integers(lanes), integers(lanes))


@plain_part
def new_runs(rows, lanes):
    size = rows * lanes
    return Runs(integers(size), integers(size), integers(size), integers(5 * rows))


@leaf_part
def place_tiles(tiling, lane_group, tiles):
    """Set the tiles of a lane group."""
    lanes = tiles.images.size
    for lane in range(lanes):
        tile = lane_group * lanes + lane
        image, place = divmod(tile, tiling.row_tiles * tiling.column_tiles)
        tiles.images[lane] = image if image < tiling.batch else -1
        tiles.rows[lane] = place // tiling.column_tiles * tiling.rows
        tiles.columns[lane] = place % tiling.column_tiles * tiling.columns


@leaf_part
def aim_at_inputs(source, tiles, rows, columns, row, width, runs, table):
    """Set ``runs`` from ``table`` on to a row of all lanes' tiles, counted from the first that the tiles read; whether
    any of it is image."""
    steps = source.strides
    lanes = tiles.images.size
    lowest, highest, low, high, beside = width, 0, 0, width, True
    for lane in range(lanes):
        y = tiles.rows[lane] * rows.in_step + rows.first + row
        x = tiles.columns[lane] * columns.in_step + columns.first
        exists = tiles.images[lane] >= 0 and 0 <= y < rows.inputs
        start = tiles.images[lane] * steps[0] + y * steps[2] + x * steps[3] if exists else 0
        begin, end = max(0, min(width, -x)) if exists else 0, max(0, min(width, columns.inputs - x)) if exists else 0
        runs.starts[table + lane], runs.lows[table + lane], runs.highs[table + lane] = start, begin, end
        low, high = max(low, begin), min(high, end)
        if begin < end:
            lowest, highest = min(lowest, begin), max(highest, end)
        beside &= start == runs.starts[table] + lane * source.itemsize
    spans = runs.spans[5 * (table // lanes) :]
    spans[0], spans[1], spans[2], spans[3] = lowest, max(lowest, highest), low, high
    spans[4] = beside and steps[0] == source.itemsize and low == lowest and high == highest
    return lowest < highest


@leaf_part
def collects(source, tiles, count):
    """Whether it is worth to collect ``count`` rows of all lanes' images: whole, short rows that follow each other, of
    images that lie in each other's way in the caches, and a run of them that is long enough."""
    row_bytes = source.shape[3] * source.itemsize
    if row_bytes > _CACHE_LINE or source.strides[0] % _CACHE_PERIOD != 0:
        return False
    adjacent = source.strides[3] == source.itemsize and source.strides[2] == row_bytes
    whole = True
    for lane in range(tiles.images.size):
        whole &= tiles.columns[lane] == 0
    return adjacent and whole and count * row_bytes >= _COLLECTED_BYTES


@leaf_part
def collect(source, tiles, rows, first, count, channel, collected):
    """Copy ``count`` rows of a channel of all lanes' tiles to ``collected``, a run of them for each lane.

    Where the lanes' images lie powers of two apart, their rows fall on the same few places of a cache, and throw each
    other out before the next row, in the same cache line, is read; here each image is read by the kilobyte.
    """
    row_bytes = source.shape[3] * source.itemsize
    for lane in range(tiles.images.size):
        if tiles.images[lane] >= 0:
            y = tiles.rows[lane] * rows.in_step + rows.first + first
            begin, end = max(0, y), min(rows.inputs, y + count)
            if begin < end:
                byte = tiles.images[lane] * source.strides[0] + channel * source.strides[1] + begin * row_bytes
                fetch_run(source, byte + source.strides[1], (end - begin) * row_bytes)
                target = (lane * count + begin - y) * row_bytes
                copy_run(source, byte, collected, target, (end - begin) * source.shape[3], False)


@leaf_part
def aim_at_collected(source, tiles, columns, row, count, runs, table):
    """Set ``runs``, which are at a row of images, to where `collect` put it."""
    row_bytes = source.shape[3] * source.itemsize
    for lane in range(tiles.images.size):
        runs.starts[table + lane] = (lane * count + row) * row_bytes + columns.first * source.itemsize
    runs.spans[5 * (table // tiles.images.size) + 4] = 0


IMAGES = {number: types.Array(number, 4, "A", readonly=True) for (number,) in FLOATS}
"""Images of a dtype, as Numba's type."""


@intrinsic
def as_images(typing_context, numbers):
    """Memory for `collect`, typed as images are, so that both are read by the same code; only its size is told."""
    result = IMAGES[numbers.dtype]

    def codegen(context, builder, signature, arguments):
        (given,) = arguments
        (size,) = array_fields(context, builder, numbers, given, "shape")
        data, steps = array_data(context, builder, numbers, given), [int64(bytes_of(numbers.dtype))] * 4
        images = view(context, builder, result, numbers, given, data, [int64(1)] * 3 + [size], steps)
        context.nrt.incref(builder, result, images)
        return images

    return result(numbers), codegen


@leaf_part
def pack_columns(source, shift, width, packed, packed_at, runs, table, ahead):
    """Pack the row that ``runs`` aims at from ``table`` on, ``shift`` bytes further on::

        for column in range(width):
            for lane in range(lanes):
                inside = runs.lows[table + lane] <= column < runs.highs[table + lane]
                byte = runs.starts[table + lane] + shift + column * source.strides[-1]
                packed[packed_at + column * lanes + lane] = source[byte] if inside else 0

    Floor: read and write ``width`` vectors. Where images lie side by side (c01b) that is all there is to do; where
    columns do (bc01), a square of lanes by lanes numbers takes some 100 instructions; any other strides are read
    number by number. What lies ``ahead`` bytes further on is fetched, if it is known what comes next.
    """
    lanes = VECTOR_BYTES // source.itemsize
    step = source.strides[source.ndim - 1]
    spans = runs.spans[5 * (table // lanes) :]
    lowest, highest, low, high = spans[0], spans[1], spans[2], spans[3]
    if lowest > 0:
        packed[packed_at : packed_at + lowest * lanes] = 0
    if highest < width:
        packed[packed_at + highest * lanes : packed_at + width * lanes] = 0
    if spans[4]:
        start = runs.starts[table] + shift + lowest * step
        copy_vectors(source, start, step, packed, packed_at + lowest * lanes, highest - lowest)
    elif step == source.itemsize:
        for column in range(lowest, highest, lanes):
            inside = low <= column and column + lanes <= high
            gather_lanes(
                source, shift + column * step, runs.starts, runs.lows, runs.highs, table, column,
                packed, packed_at + column * lanes, min(lanes, highest - column), inside, ahead,
            )  # fmt: skip
    else:
        numbers_to_lanes(
            source, shift, step, runs.starts, runs.lows, runs.highs, table, packed, packed_at, lowest, highest
        )
