"""Outputs on their way from lanes to images.

Rows of outputs wait on a *stage*, as vectors, until a run of them is worth writing: each lane then gets a long run of
its image at once. It leaves in whole cache lines, past the caches if the outputs are too large to be found there
later. Parts of lines, and runs of tiles here and there, first pass through a little memory in which each lane's numbers
lie side by side.
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.jit import leaf_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.packing import ceil_div
from pytensor_convnet.kernels.cpu.simd import copy_run, turn_lanes

STAGE_BYTES = 256 * 1024
"""Outputs that wait."""

RUN = 256
"""Numbers of a run that is long enough."""

STREAMED_BYTES = 1 << 23
"""Outputs of so many bytes are written past the caches."""


class Stage(NamedTuple):
    """How rows of outputs lie on the stage and leave it."""

    width: int
    """Columns of outputs in a row of a tile. Rows touch, as they do in an image, so that a run can have several."""
    bases: int
    """Bases whose rows wait together."""
    run_rows: int
    """Rows that leave together."""
    streaming: bool


STAGE = types.NamedTuple((types.intp,) * 3 + (types.boolean,), Stage)


@leaf_part
def plan_stage(out, filters, rows, columns, tiling, band):
    """The stage for some filters' outputs, computed ``band`` bases at a time."""
    width = columns.outputs if tiling.column_tiles == 1 else tiling.columns * columns.out_step
    if width != columns.outputs:
        return Stage(width, band, 1, out.nbytes >= STREAMED_BYTES)
    size = rows.out_step * width
    fitting = min(STAGE_BYTES // (filters * size * VECTOR_BYTES), ceil_div(RUN, size))
    # Whole cache lines, if that takes a few rows.
    line = VECTOR_BYTES // out.itemsize
    while line > 1 and size % 2 == 0:
        size, line = size // 2, line // 2
    multiple = line * band if line % band else line
    if fitting < multiple:
        multiple = band
    bases = max(multiple, fitting - fitting % multiple)
    run_rows = max(1, min(bases * rows.out_step, ceil_div(RUN, width)))
    while bases * rows.out_step % run_rows:
        run_rows += 1
    return Stage(width, bases, run_rows, out.nbytes >= STREAMED_BYTES)


@leaf_part
def _lie_evenly(out, runs, size, streaming):
    """Whether all lanes have runs of ``size`` numbers that lie evenly apart, and alike in cache lines if streamed."""
    apart = runs.starts[1] - runs.starts[0]
    evenly = not streaming or apart % VECTOR_BYTES == 0
    for lane in range(VECTOR_BYTES // out.itemsize):
        evenly &= runs.highs[lane] == size and runs.starts[lane] == runs.starts[0] + lane * apart
    return evenly


@leaf_part
def _write_by_way(staged, at, out, shift, runs, first, last, streaming, turned):
    """Write numbers ``first`` to ``last`` of all lanes' runs by way of ``turned``."""
    lanes = VECTOR_BYTES // out.itemsize
    step = ceil_div(last - first, lanes) * lanes
    for column in range(first, last, lanes):
        turn_lanes(staged, at + column * lanes, turned, column - first, step, False)
    for lane in range(lanes):
        count = min(last, runs.highs[lane]) - first
        if count > 0:
            to = shift + runs.starts[lane] + first * out.itemsize
            copy_run(turned, lane * step * out.itemsize, out, to, count, streaming)


@leaf_part
def unpack_rows(
    staged, filter_step, first_base, bases, filters, first_filter, out, tiles, rows, columns, stage, runs, turned
):  # fmt: skip
    """Write the rows of ``bases`` bases from ``first_base`` on, all ``filters``, from the stage to ``out``::

        for filter: for row: for column: for lane:
            out[image of lane, first_filter + filter, row of lane, column of lane] = (
                staged[filter * filter_step + (row * stage.width + column) * lanes + lane]
            )

    Runs that lie evenly are turned right into ``out``, but for parts of cache lines; others pass through ``turned``.

    Floor: read and write each vector once; a square of lanes by lanes numbers takes some 100 instructions.
    """
    lanes = VECTOR_BYTES // out.itemsize
    steps = out.strides
    count = bases * rows.out_step
    for row in range(0, count, stage.run_rows):
        whole = min(stage.run_rows, count - row)
        size = whole * stage.width
        for lane in range(lanes):
            y = (tiles.rows[lane] + first_base) * rows.out_step + row
            x = tiles.columns[lane] * columns.out_step
            runs.starts[lane] = tiles.images[lane] * steps[0] + y * steps[2] + x * steps[3]
            exists = tiles.images[lane] >= 0 and y < rows.outputs and x < columns.outputs
            rest = (rows.outputs - y) * stage.width if whole > 1 else columns.outputs - x
            runs.highs[lane] = min(size, rest) if exists else 0
        evenly, apart = _lie_evenly(out, runs, size, stage.streaming), runs.starts[1] - runs.starts[0]
        for f in range(filters):
            at, shift = f * filter_step + row * stage.width * lanes, (first_filter + f) * steps[1]
            if not evenly:
                _write_by_way(staged, at, out, shift, runs, 0, size, stage.streaming, turned)
                continue
            byte = shift + runs.starts[0]
            first = -(np.int64(out.ctypes.data) + byte) // out.itemsize % lanes if stage.streaming else 0
            last = max(first, size - (size - first) % lanes)
            for column in range(first, last, lanes):
                place = byte // out.itemsize + column
                turn_lanes(staged, at + column * lanes, out, place, apart // out.itemsize, stage.streaming)
            if first > 0:
                _write_by_way(staged, at, out, shift, runs, 0, min(first, size), False, turned)
            if last < size:
                _write_by_way(staged, at, out, shift, runs, last, size, False, turned)
