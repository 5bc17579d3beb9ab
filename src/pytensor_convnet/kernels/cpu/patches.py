"""Patches: what a filter sees of an image from where it stands, as a few runs of vectors.

Lanes are channels here, a vector's worth of them to a *block*, and the vectors of a row's columns follow each other: a
filter's row sees a run of them. Fewer channels than lanes leave lanes idle, so neighbouring columns then share a
vector, and each place where the filter may stand gets a run of its own, in which what columns have in common is
repeated: the three channels of five columns are 15 of 16 lanes. One channel of five columns would still be few; there,
some of the filter's rows are *joined* to one run.
"""

from typing import NamedTuple

from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.jit import leaf_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.packing import ceil_div, pack_columns
from pytensor_convnet.kernels.cpu.simd import copy_run, turn_lanes
from pytensor_convnet.kernels.cpu.unpacking import RUN
from pytensor_convnet.kernels.cpu.winner_blocks import MOST_VECTORS


class Patches(NamedTuple):
    """How one block of channels lies in lines, one for each row of the padded image. Steps count bytes."""

    sharing: bool
    """Whether columns share vectors, so that runs repeat what they have in common."""
    first: int
    """The block's first channel."""
    channels: int
    joined: int
    """Rows of the filter in a run."""
    runs: int
    vectors: int
    """Of a run."""
    apart: int
    """Numbers from a column of a run to the next."""
    column_step: int
    """From the run of a place to that of the next column of maps."""
    row_step: int
    """From a line to the next."""
    run_step: int
    at: int
    """Where the block is in a filter's vectors."""


_MOST_JOINED = 2
"""Vectors that rows are joined to: wider runs, at each place, take the room of more images in the caches."""


@leaf_part
def plan_patches(block, channels, rows, columns, at, lanes):
    """The patches of a block of as many channels as there are lanes."""
    first = block * lanes
    some, row_taps, column_taps = min(lanes, channels - first), rows.taps.size, columns.taps.size
    joined, vectors = 1, column_taps
    for several in range(1, row_taps + 1):
        needed = ceil_div(several * some * column_taps, lanes)
        if several > 1 and needed > _MOST_JOINED:
            break
        if ceil_div(row_taps, several) * needed < ceil_div(row_taps, joined) * vectors:
            joined, vectors = several, needed
    if joined > 1 or vectors < column_taps:
        return _sharing(first, some, joined, vectors, rows, columns, at)
    row_step = ((columns.outputs - 1) * columns.in_step + columns.span) * VECTOR_BYTES
    dilation = (rows.span - 1) // max(1, row_taps - 1)
    return Patches(
        False, first, some, 1, row_taps, vectors, lanes, columns.in_step * VECTOR_BYTES, row_step, dilation * row_step,
        at,
    )  # fmt: skip


@leaf_part
def sharing_blocks(channels, columns, lanes):
    """Into how many blocks channels are cut for `plan_sharing_patches`: a run's sums stay in registers."""
    return ceil_div(channels, max(1, MOST_VECTORS * lanes // columns.taps.size))


@leaf_part
def plan_sharing_patches(block, blocks, channels, rows, columns, lanes):
    """The patches of one of ``blocks`` blocks, in all of which columns share vectors."""
    first = block * channels // blocks
    some = (block + 1) * channels // blocks - first
    return _sharing(first, some, 1, ceil_div(some * columns.taps.size, lanes), rows, columns, 0)


@leaf_part
def _sharing(first, channels, joined, vectors, rows, columns, at):
    row_taps = rows.taps.size
    row_step = columns.outputs * vectors * VECTOR_BYTES
    dilation = (rows.span - 1) // max(1, row_taps - 1)
    return Patches(
        True, first, channels, joined, ceil_div(row_taps, joined), vectors, joined * channels, vectors * VECTOR_BYTES,
        row_step, joined * dilation * row_step, at,
    )  # fmt: skip


@leaf_part
def lines_of(map_rows, patches, rows):
    """How many lines the patches of so many rows of maps are in."""
    return (map_rows - 1) * rows.in_step + (patches.runs - 1) * patches.run_step // patches.row_step + 1


# ---------------------------------------------------------------------------------------- from images


@emitted(arrays=1)
def _spread_numbers(e, vector, source, step, count, target, target_step):
    """``target[n] = source[n]`` for ``count`` numbers, so many bytes apart."""

    def move(n, several):
        for i in range(several):
            e.store(target + (n + i) * target_step, e.load(vector.element, source + (n + i) * step))

    whole = count // 4 * 4
    with e.range(0, whole, 4) as n:
        move(n, 4)
    with e.range(whole, count) as n:
        move(n, 1)


@emitted(arrays=1)
def _repeat_runs(e, vector, source, step, count, vectors, target):
    """Copy ``count`` runs of ``vectors``, which begin ``step`` bytes apart, to one after the other."""
    to = e.variable(target)
    with e.range(0, count) as n:
        place = source + n * step
        with e.range(0, vectors) as v:
            e.store(to.get(), e.load(vector, place + v * VECTOR_BYTES))
            to.set(to.get() + VECTOR_BYTES)


@leaf_part
def pack_patches(images, image, first_channel, patches, rows, columns, first_line, lines, flat, packed, place, runs):
    """Write ``lines`` lines of an image's block from ``first_line`` on, the first to byte ``place`` of ``packed``.

    ``flat`` is memory for a row of the image in which columns share vectors.
    """
    p, steps, left = patches, images.strides, -columns.first
    width = (columns.outputs - 1) * columns.in_step + columns.span
    begin, end = min(left, width), max(0, min(width, left + columns.inputs))
    origin = image * steps[0] + (first_channel + p.first) * steps[1] - left * steps[3]
    top = first_line + rows.first
    if p.sharing:
        if begin > 0 or end < width:
            flat[:] = 0
        for line in range(lines):
            _pack_sharing(images, origin, top + line, p, rows, columns, begin, end, flat, packed, place)
            place += p.row_step
    else:
        # Rows of the image that follow each other are packed as one.
        whole = begin == 0 and end == width == columns.inputs and top >= 0 and top + lines <= rows.inputs
        count = lines if whole and steps[2] == width * steps[3] else 1
        for line in range(0, lines, count):
            exists = 0 <= top + line < rows.inputs and begin < end
            _aim_at_channels(
                images, origin + (top + line) * steps[2], p, begin, end * count, width * count, exists, runs
            )
            pack_columns(images, 0, width * count, packed, (place + line * p.row_step) // images.itemsize, runs, 0, 0)


@leaf_part
def _aim_at_channels(images, start, patches, begin, end, width, exists, runs):
    """Set ``runs`` to ``width`` columns of a block's channels, the first of which is at byte ``start``."""
    lanes = VECTOR_BYTES // images.itemsize
    for lane in range(lanes):
        there = exists and lane < patches.channels
        runs.starts[lane] = start + lane * images.strides[1] if there else 0
        runs.lows[lane], runs.highs[lane] = begin if there else 0, end if there else 0
    whole = exists and patches.channels == lanes
    runs.spans[0], runs.spans[1] = begin if exists else width, end if exists else width
    runs.spans[2], runs.spans[3] = begin if whole else width, end if whole else 0
    runs.spans[4] = whole and images.strides[1] == images.itemsize


@leaf_part
def _pack_sharing(images, origin, top, patches, rows, columns, begin, end, flat, packed, place):
    """A line in which columns share vectors, whose first row is row ``top`` of the image."""
    p, steps, item = patches, images.strides, images.itemsize
    dilation = p.run_step // (p.joined * p.row_step)
    if top < 0 or top + (p.joined - 1) * dilation >= rows.inputs:
        flat[:] = 0
    for t in range(p.joined):
        y = top + t * dilation
        if 0 <= y < rows.inputs:
            for c in range(p.channels):
                _spread_numbers(
                    images, address_of(images) + origin + y * steps[2] + c * steps[1] + begin * steps[3], steps[3],
                    end - begin, address_of(flat) + ((t + begin * p.joined) * p.channels + c) * item, p.apart * item,
                )  # fmt: skip
    _repeat_runs(
        images, address_of(flat), columns.in_step * p.apart * item, columns.outputs, p.vectors,
        address_of(packed) + place,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ to images


@emitted(arrays=1)
def _fold_runs(e, vector, line, stride, taps, apart, column_step, places, left, count, target):
    """Add up, for each of ``count`` columns, what the runs of a line have of it."""
    # The column is tap ``phase`` at place x, and a stride further at each place before.
    x = e.variable(left // stride)
    phase = e.variable(left - x.get() * stride)
    with e.range(0, count) as column:
        beyond = e.maximum(x.get() - places + 1, e.integer(0))
        tap = phase.get() + beyond * stride
        stop = e.minimum(taps, phase.get() + (x.get() + 1) * stride)

        def add(_, values):
            total, place = values
            return [total + e.load(vector, place), place + stride * apart - column_step]

        begin = line + (x.get() - beyond) * column_step + tap * apart
        total, _ = e.fold(tap, stop, stride, [e.constant(vector, 0), begin], add)
        e.store(target + column * VECTOR_BYTES, total)
        phase.set(phase.get() + 1)
        with e.when(phase.get() >= stride):
            phase.set(e.integer(0))
            x.set(x.get() + 1)


@leaf_part
def unpack_patches(packed, patches, rows, columns, images, image, first_channel, folded, turned):
    """Write a block of an image from its lines, in which columns share vectors; the first is that of row 0 of the
    padded image.

    ``folded`` is memory for some rows of a vector's channels, ``turned`` for a run of each lane.
    """
    item = images.itemsize
    lanes = VECTOR_BYTES // item
    p, width, steps = patches, columns.inputs, images.strides
    together = rows_together(width)
    step = ceil_div(together * width, lanes) * lanes
    for first_lane in range(0, p.channels, lanes):
        some = min(lanes, p.channels - first_lane)
        for first in range(0, rows.inputs, together):
            size = min(together, rows.inputs - first) * width
            for y in range(size // width):
                line = address_of(packed) + (first + y - rows.first) * p.row_step + first_lane * item
                _fold_runs(
                    images, line, columns.in_step, columns.taps.size, p.apart * item, p.column_step, columns.outputs,
                    -columns.first, width, address_of(folded) + y * width * VECTOR_BYTES,
                )  # fmt: skip
            to = image * steps[0] + (first_channel + p.first + first_lane) * steps[1] + first * steps[2]
            whole = size - size % lanes if some == lanes else 0
            for column in range(0, whole, lanes):
                turn_lanes(folded, column * lanes, images, to // item + column, steps[1] // item, False)
            for column in range(whole, size, lanes):
                turn_lanes(folded, column * lanes, turned, column, step, False)
            if whole < size:
                for lane in range(some):
                    byte = (lane * step + whole) * item
                    copy_run(turned, byte, images, to + lane * steps[1] + whole * item, size - whole, False)


@leaf_part
def rows_together(width):
    """How many rows of so many numbers make a run that is long enough to be written."""
    return max(1, RUN // width)
