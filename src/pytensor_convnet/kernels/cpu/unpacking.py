"""Outputs on their way from lanes to images.

Rows of outputs wait on a *stage*, as vectors, until a run of them is worth writing: each lane then gets a long run of
its image at once. Runs pass through a little memory in which each lane's numbers lie side by side, and leave it in
whole cache lines, past the caches if the outputs are too large to be found there later.
"""


from pytensor_convnet.kernels.cpu.detached import leaf_kernel
from pytensor_convnet.kernels.cpu.packing import ceil_div
from pytensor_convnet.kernels.cpu.simd import VECTOR_BYTES, copy_run, turn_lanes

STAGE_BYTES = 256 * 1024
"""Outputs that wait."""

RUN = 256
"""Numbers of a run that is long enough."""

STREAMED_BYTES = 1 << 23
"""Outputs of so many bytes are written past the caches."""


@leaf_kernel
def stage_pitch(columns, tiling):
    """Output columns that a tile has on the stage: where it spans an image, its rows touch, as in the image."""
    if tiling.column_tiles == 1:
        return columns.outputs
    return tiling.columns * columns.out_step


@leaf_kernel
def band_of_stage(filters, rows, pitch, tiling, item_bytes):
    """Bases whose rows of outputs wait together."""
    if tiling.column_tiles > 1:
        return 1
    size = rows.out_step * pitch
    fitting = min(STAGE_BYTES // (filters * size * VECTOR_BYTES), ceil_div(RUN, size))
    # Whole cache lines, if that takes a few rows.
    line = VECTOR_BYTES // item_bytes
    while line > 1 and size % 2 == 0:
        size, line = size // 2, line // 2
    if fitting > line:
        fitting -= fitting % line
    return max(1, min(fitting, tiling.rows))


@leaf_kernel
def rows_of_run(band, rows, pitch, tiling):
    """Rows of outputs that are written together."""
    return max(1, min(band * rows.out_step, ceil_div(RUN, pitch))) if tiling.column_tiles == 1 else 1


@leaf_kernel
def unpack_rows(stage, stage_step, first_base, bases, filters, first_filter, out, tiles, rows, columns, pitch, run_rows,
                runs, turned, streaming):  # fmt: skip
    """Write the rows of ``bases`` bases from ``first_base`` on, all ``filters``, from the stage to ``out``::

        for filter: for row: for column: for lane:
            out[image of lane, first_filter + filter, row of lane, column of lane] = (
                stage[filter * stage_step + (row * pitch + column) * lanes + lane]
            )

    Floor: read and write each vector twice; a square of lanes by lanes numbers takes some 100 instructions.
    """
    lanes = VECTOR_BYTES // out.itemsize
    steps = out.strides
    count = bases * rows.out_step
    for row in range(0, count, run_rows):
        size = min(run_rows, count - row) * pitch
        for lane in range(lanes):
            y = (tiles.rows[lane] + first_base) * rows.out_step + row
            x = tiles.columns[lane] * columns.out_step
            runs.starts[lane] = tiles.images[lane] * steps[0] + y * steps[2] + x * steps[3]
            exists = tiles.images[lane] >= 0 and y < rows.outputs and x < columns.outputs
            rest = columns.outputs - x if pitch != columns.outputs else (rows.outputs - y) * pitch
            runs.highs[lane] = min(size, rest) if exists else 0
        step = ceil_div(size, lanes) * lanes
        for f in range(filters):
            at, shift = f * stage_step + row * pitch * lanes, (first_filter + f) * steps[1]
            for column in range(0, size, lanes):
                turn_lanes(stage, at + column * lanes, turned, column, step)
            for lane in range(lanes):
                if runs.highs[lane] > 0:
                    copy_run(turned, lane * step, out, shift + runs.starts[lane], runs.highs[lane], streaming)
