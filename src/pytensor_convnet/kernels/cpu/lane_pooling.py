"""Max pooling where images are in lanes: between a correlation's rows and memory, in both directions.

Forwards, rows of maps that a correlation has just computed are pooled before they are written. Backwards, a gradient's
rows of maps are made from the pooled gradient and the winners when they are wanted. Either way the maps themselves,
the largest arrays of a small network, never reach memory. A window's taps are whole vectors here, one image a lane,
so every stride is as good as any.

Winners are integers as wide as the floats; they travel as the bits of floats.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from pytensor_convnet.kernels.cpu.emission import Value, address_of, emitted
from pytensor_convnet.kernels.cpu.input_rows import transform_row
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import transform_maps
from pytensor_convnet.kernels.cpu.packing import ceil_div, integers, vectors
from pytensor_convnet.kernels.cpu.pool_checks import Windows
from pytensor_convnet.kernels.cpu.simd import copy_run, gather_lanes


def _numbers_type(vector):
    """Integers as wide as the floats of ``vector``."""
    return ir.VectorType(ir.IntType(8 * item_bytes(vector)), vector.count)


# ------------------------------------------------------------------------------------------------ forwards


_COMMON = (2, 3)
"""Square windows whose taps are written out."""


@emitted(arrays=1)
def pool_lanes(
    e, vector, source, row_step, first_i, end_i, window_columns, stride, left, columns, out_columns, maxima, winners
):  # fmt: skip
    """A row of windows over rows of maps in lanes, the first of which, at ``source``, meets tap row ``first_i``.

    NaN wins, and of equal values the first; padding is not looked at.
    """
    numbers = _numbers_type(vector)

    def better(best, winner, address, number):
        value = e.load(vector, address)
        wins = value.beats(best) & best.is_number()
        return e.select(wins, value, best), e.select(wins, e.constant(numbers, number), winner)

    def write(x, best, winner):
        e.store(maxima + x * VECTOR_BYTES, best)
        e.store(winners + x * VECTOR_BYTES, winner)

    def pool_any(x, start, first_j, end_j):
        best = e.variable(e.constant(vector, float("-inf")))
        winner = e.variable(e.splat(numbers, first_i * window_columns + first_j))
        line = e.variable(source + start * VECTOR_BYTES)
        with e.range(first_i, end_i) as i:
            with e.range(first_j, end_j) as j:
                address = line.get() + j * VECTOR_BYTES
                value, number = better(best.get(), winner.get(), address, i * window_columns + j)
                best.set(value)
                winner.set(number)
            line.set(line.get() + row_step)
        write(x, best.get(), winner.get())

    def pool_common(x, start, size):
        line = source + start * VECTOR_BYTES
        best, winner = e.load(vector, line), e.constant(numbers, 0)
        for tap in range(1, size * size):
            address = line + row_step * (tap // size) + tap % size * VECTOR_BYTES
            best, winner = better(best, winner, address, tap)
        write(x, best, winner)

    with e.range(0, out_columns) as x:
        start = x * stride - left
        first_j = e.maximum(0 - start, e.integer(0))
        end_j = e.minimum(window_columns, columns - start)
        whole = first_i.equals(0) & first_j.equals(0) & end_j.equals(end_i)
        done = e.variable(e.integer(0))
        for size in _COMMON:
            with e.when(whole & end_i.equals(size) & window_columns.equals(size)):
                pool_common(x, start, size)
                done.set(e.integer(1))
        with e.when(done.get().equals(0)):
            pool_any(x, start, first_j, end_j)


@emitted(arrays=2)
def narrow_run(e, vector, narrow, source, target, count):
    """Write a run of winners, bits of floats, as ``count`` integers of the second array's dtype."""
    lanes, size = vector.count, item_bytes(narrow)
    with e.range(0, count, lanes) as place:
        numbers = e.load(_numbers_type(vector), source + place * item_bytes(vector)).to(narrow)
        e.store_first(target + place * size, count - place, numbers)


def _in_runs(e, vectors):
    """Vectors, a power of two of them, transposed: all numbers of a lane follow each other."""
    if len(vectors) == 1:
        return vectors
    half, lanes = len(vectors) // 2, vectors[0].type.count
    pairs = zip(_in_runs(e, vectors[:half]), _in_runs(e, vectors[half:]))
    # Runs of half the numbers, by turns from either.
    places = [i + source for run in range(0, lanes, half) for source in (0, lanes) for i in range(run, run + half)]
    return [e.shuffle(a, b, part) for a, b in pairs for part in (places[:lanes], places[lanes:])]


@emitted(arrays=2, returns=True)
def write_winners(e, vector, narrow, numbers, count, target, image_bytes):
    """Write winners in lanes to an image each, ``image_bytes`` apart, a byte for each; returns how many of ``count``.

    As many bytes as fit into a number are joined first, so that few numbers need to be transposed.
    """
    wide, lanes = _numbers_type(vector), vector.count
    joined = item_bytes(vector)
    if lanes < joined:
        return e.integer(0)
    whole = count // lanes * lanes

    def number_of(place, first):
        total = e.load(wide, place + first * VECTOR_BYTES)
        for i in range(1, joined):
            total = total | e.load(wide, place + (first + i) * VECTOR_BYTES) << 8 * i
        return total

    with e.range(0, whole, lanes) as first:
        place = numbers + first * VECTOR_BYTES
        runs, size = _in_runs(e, [number_of(place, i) for i in range(0, lanes, joined)]), lanes // joined
        for lane in range(lanes):
            several = runs[lane * size // lanes]
            begin = lane * size % lanes
            e.store(target + image_bytes * lane + first, e.shuffle(several, several, range(begin, begin + size)))
    return whole


# ----------------------------------------------------------------------------------------------- backwards


@emitted(arrays=2)
def _widen_run(e, vector, narrow, source, target, count):
    """Read a run of ``count`` winners as bits of floats; a few more are written."""
    lanes, size = vector.count, item_bytes(narrow)
    with e.range(0, count, lanes) as place:
        few = e.load_first(source + place * size, count - place, e.constant(narrow, 0))
        wide = e.builder.zext(few.value, _numbers_type(vector))
        e.store(target + place * item_bytes(vector), Value(e, wide))


@emitted(arrays=1, returns=True)
def _misfits(e, vector, numbers, row, first_i, end_i, window_columns, stride, left, columns, out_columns):
    """How many windows of a row have, in some lane, a winner that is none of its pixels."""
    wide = _numbers_type(vector)
    found = e.variable(e.integer(0))
    with e.range(0, out_columns) as x:
        start = x * stride - left
        first_j = e.maximum(0 - start, e.integer(0))
        more = e.splat(wide, e.minimum(window_columns, columns - start) - first_j - 1)
        number = e.load(wide, numbers + (row * out_columns + x) * VECTOR_BYTES)
        column = e.variable(number - e.splat(wide, first_i * window_columns + first_j))
        misfit = e.variable(column.get().exceeds(more))
        with e.range(first_i + 1, end_i):
            column.set(column.get() - e.splat(wide, window_columns))
            misfit.set(misfit.get() & column.get().exceeds(more))
        with e.when(misfit.get().first_set() < vector.count):
            found.set(found.get() + 1)
    return found.get()


@emitted(arrays=1)
def _spread_lanes(
    e, vector, values, numbers, first_y, end_y, row, window_columns, stride_rows, stride, left, out_columns,
    first_column, end_column, target,
):  # fmt: skip
    """Row ``row`` of the padded maps' gradient: for each column, the sum of the windows' values that it won.

    ``values`` and ``numbers`` hold rows of windows from ``first_y`` on, of which those before ``end_y`` reach the row.
    """
    wide = _numbers_type(vector)
    q = e.variable((first_column + left) // stride)
    phase = e.variable(first_column + left - q.get() * stride)
    with e.range(first_column, end_column) as column:
        total = e.variable(e.constant(vector, 0))
        line = e.variable(e.integer(0))
        with e.range(first_y, end_y) as y:
            i = row - y * stride_rows
            x = e.variable(q.get())
            with e.range(phase.get(), window_columns, stride) as j:
                here = x.get()
                with e.when((here >= 0) & (here < out_columns)):
                    place = (line.get() + here) * VECTOR_BYTES
                    hit = e.load(wide, numbers + place).equals(e.splat(wide, i * window_columns + j))
                    value = e.load(vector, values + place)
                    total.set(e.select(hit, total.get() + value, total.get()))
                x.set(here - 1)
            line.set(line.get() + out_columns)
        e.store(target + (column - first_column) * VECTOR_BYTES, total.get())
        phase.set(phase.get() + 1)
        with e.when(phase.get() >= stride):
            phase.set(e.integer(0))
            q.set(q.get() + 1)


class Pooled(NamedTuple):
    """Memory for rows of pooled gradients and winners of one channel: each lane's runs, then in lanes."""

    runs: np.ndarray
    values: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray
    lows: np.ndarray
    highs: np.ndarray


@plain_part
def new_pooled(rows, windows, like):
    """Memory for what ``rows`` rows of maps need."""
    lanes = VECTOR_BYTES // like.itemsize
    most = 0
    if windows.window_rows > 0:
        most = (ceil_div(rows + windows.window_rows, windows.stride_rows) + 1) * windows.out_columns
    padded = ceil_div(most, lanes) * lanes + lanes
    lows = integers(lanes)
    lows[:] = 0
    return Pooled(
        vectors(padded, like), vectors(padded, like), vectors(padded, like),
        integers(lanes), lows, integers(lanes),
    )  # fmt: skip


@leaf_part
def _turn_runs(pooled, target, size, lanes, item):
    """The lanes' runs as vectors."""
    for place in range(0, size, lanes):
        gather_lanes(
            pooled.runs, place * item, pooled.starts, pooled.lows, pooled.highs, 0, place,
            target, place * lanes, min(lanes, size - place), False, 0,
        )  # fmt: skip


@leaf_part
def load_pooled(maps, winners, windows, tiles, channel, first_y, end_y, pooled):
    """Bring rows of windows of one channel into lanes; how many of them have winners that do not fit."""
    lanes, item = VECTOR_BYTES // maps.itemsize, maps.itemsize
    size = (end_y - first_y) * windows.out_columns
    pitch = ceil_div(size, lanes) * lanes
    for lane in range(lanes):
        exists = tiles.images[lane] >= 0
        pooled.starts[lane] = lane * pitch * item
        pooled.highs[lane] = size if exists else 0
        if exists:
            plane = tiles.images[lane] * maps.shape[1] + channel
            at = (plane * windows.out_rows + first_y) * windows.out_columns
            copy_run(maps, at * item, pooled.runs, lane * pitch * item, size, False)
    _turn_runs(pooled, pooled.values, size, lanes, item)
    for lane in range(lanes):
        if tiles.images[lane] >= 0:
            plane = tiles.images[lane] * maps.shape[1] + channel
            at = (plane * windows.out_rows + first_y) * windows.out_columns
            source = address_of(winners) + at * winners.itemsize
            _widen_run(maps, winners, source, address_of(pooled.runs) + lane * pitch * item, size)
        else:
            # A winner that fits, of a value that is zero.
            for place in range(size):
                pooled.runs[lane * pitch + place] = 0
    _turn_runs(pooled, pooled.numbers, size, lanes, item)
    found = 0
    for y in range(first_y, end_y):
        top = y * windows.stride_rows - windows.top
        first_i, end_i = max(0, -top), min(windows.window_rows, windows.rows - top)
        found += _misfits(
            maps, address_of(pooled.numbers), y - first_y, first_i, end_i, windows.window_columns,
            windows.stride_columns, windows.left, windows.columns, windows.out_columns,
        )  # fmt: skip
    return found


@leaf_part
def windows_over(first, last, windows):
    """The rows of windows that reach rows ``first`` to ``last`` of the maps."""
    w = windows
    first_y = max(0, (first + w.top - w.window_rows + w.stride_rows) // w.stride_rows)
    end_y = min(w.out_rows, (last - 1 + w.top) // w.stride_rows + 1)
    return first_y, max(first_y, end_y)


@leaf_part
def _unpool_row(maps, row, loaded_y, first_column, width, windows, pooled, to, to_at):
    """One row of the maps' gradient in lanes, ``width`` columns from ``first_column`` on, zero where there are none."""
    w = windows
    lanes = VECTOR_BYTES // maps.itemsize
    begin, end = min(width, max(0, -first_column)), max(0, min(width, w.columns - first_column))
    to[to_at : to_at + begin * lanes] = 0
    to[to_at + end * lanes : to_at + width * lanes] = 0
    first_y, end_y = windows_over(row, row + 1, w)
    line = (first_y - loaded_y) * w.out_columns * VECTOR_BYTES
    _spread_lanes(
        maps, address_of(pooled.values) + line, address_of(pooled.numbers) + line, first_y, end_y, row + w.top,
        w.window_columns, w.stride_rows, w.stride_columns, w.left, w.out_columns,
        begin + first_column, end + first_column, address_of(to) + to_at * maps.itemsize + begin * VECTOR_BYTES,
    )  # fmt: skip


@leaf_part
def unpool_inputs(
    maps, winners, windows, tiles, rows, columns, first, last, slots, reads, channel, channels,
    packed, row_step, channel_step, used, raw, pooled,
):  # fmt: skip
    """As `packing.pack_rows`, for maps that are known by their pooled gradient and winners; counts misfits."""
    lanes = VECTOR_BYTES // maps.itemsize
    begin, end = max(0, rows.first + first), min(windows.rows, rows.first + last)
    first_y, end_y = windows_over(begin, end, windows)
    found = 0
    for row in range(first, last):
        used[row % slots] = 0 <= rows.first + row < windows.rows
    for c in range(channels):
        if begin < end:
            found += load_pooled(maps, winners, windows, tiles, channel + c, first_y, end_y, pooled)
        for row in range(first, last):
            slot = row % slots
            at = slot * row_step + c * channel_step
            if not used[slot]:
                packed[at : at + reads.row_vectors * lanes] = 0
                continue
            to, to_at = (packed, at) if reads.points == 1 else (raw, 0)
            _unpool_row(maps, rows.first + row, first_y, columns.first, reads.width, windows, pooled, to, to_at)
            if reads.points > 1:
                transform_row(raw, packed, at, reads)
    return found


@leaf_part
def unpool_maps(maps, winners, windows, tiles, first, last, reads, channel, channels, packed, steps, raw, pooled):
    """As a filter gradient packs maps, for maps that are known by their pooled gradient and winners."""
    map_step, point_step, _ = steps
    lanes = VECTOR_BYTES // maps.itemsize
    width = reads.tiles * reads.outputs
    first_y, end_y = windows_over(first, last, windows)
    found = 0
    for c in range(channels):
        found += load_pooled(maps, winners, windows, tiles, channel + c, first_y, end_y, pooled)
        for row in range(first, last):
            at = c * map_step + (row - first) * reads.tiles * lanes
            to, to_at = (packed, at) if reads.points == 1 else (raw, 0)
            _unpool_row(maps, row, first_y, 0, width, windows, pooled, to, to_at)
            if reads.points > 1:
                transform_maps(
                    reads.form, raw, 0, lanes, reads.outputs * lanes, packed, at, point_step, lanes, reads.tiles
                )
    return found


@leaf_part
def no_windows():
    """The windows of maps that are given themselves."""
    return Windows(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


WINNERS = types.Array(types.uint8, 4, "A", readonly=True)
"""Winners, as Numba's type; with `no_windows` they may be empty."""


@plain_part
def no_winners():
    return new_array((0, 0, 0, 0), np.uint8)
