"""Outputs on their way from lanes to images.

Rows of outputs wait on a *stage*, as vectors, until a run of them is worth writing: each lane then gets a long run of
its image at once. Runs pass through a little memory in which each lane's numbers lie side by side, and leave it in
whole cache lines, past the caches if the outputs are too large to be found there later.
"""

from typing import NamedTuple

from numba import types

from pytensor_convnet.kernels.cpu.detached import leaf_kernel
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


@leaf_kernel
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


@leaf_kernel
def unpack_rows(
    staged, filter_step, first_base, bases, filters, first_filter, out, tiles, rows, columns, stage, runs, turned
):  # fmt: skip
    """Write the rows of ``bases`` bases from ``first_base`` on, all ``filters``, from the stage to ``out``::

        for filter: for row: for column: for lane:
            out[image of lane, first_filter + filter, row of lane, column of lane] = (
                staged[filter * filter_step + (row * stage.width + column) * lanes + lane]
            )

    Floor: read and write each vector twice; a square of lanes by lanes numbers takes some 100 instructions.
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
        step = ceil_div(size, lanes) * lanes
        for f in range(filters):
            at, shift = f * filter_step + row * stage.width * lanes, (first_filter + f) * steps[1]
            for column in range(0, size, lanes):
                turn_lanes(staged, at + column * lanes, turned, column, step)
            for lane in range(lanes):
                if runs.highs[lane] > 0:
                    byte = lane * step * out.itemsize
                    copy_run(turned, byte, out, shift + runs.starts[lane], runs.highs[lane], stage.streaming)
