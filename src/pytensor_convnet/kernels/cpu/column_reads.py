"""What register blocks read along columns: the direct algorithm and minimal filtering in one description.

A row of input is kept as vectors that register blocks multiply with filters. For the direct algorithm these are its
columns. For minimal filtering (`minimal_filtering`) a row is cut into overlapping tiles, and each tile is kept as its
transform: ``points`` values. Either way an output tile, number ``m`` in its row, is a sum of *reads* at
``m * tile_step`` plus an offset, each with filters of its own; so one loop does both, and the direct algorithm is the
form of one output, one tap and one point.

With a stride of s the inputs of neighbouring outputs lie s apart. A transform takes every s-th column, from each of
the s places to start at, and has a read for each. So three taps at a stride of 2 are a read of two taps and one of a
single tap. At two points a read may be left out: a form's first point is the place zero, where a filter is worth its
first tap, and its last is infinity, where it is worth its last (`reads_at`).
"""

from typing import NamedTuple

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.minimal_filtering import FORM_OUTPUTS, FORM_TAPS
from pytensor_convnet.kernels.cpu.packing import ceil_div, inputs_read, integers


class Reads(NamedTuple):
    """How a row is kept and what outputs read of it. Steps and offsets count vectors."""

    form: int
    points: int
    outputs: int
    """Output columns of a tile, for each phase."""
    tiles: int
    width: int
    """Input columns that a row of tiles reads."""
    starts: int
    """Places at which a transform of every s-th column can start."""
    tile_inputs: int
    """Columns from a transformed tile to the next."""
    places: int
    """Transformed tiles in a row, for each start."""
    row_vectors: int
    """Vectors of one channel's row."""
    tile_step: int
    first: np.ndarray
    """``first[phase]:first[phase + 1]`` are the reads of a phase."""
    at_zero: np.ndarray
    """The first of a phase's reads that has a form's first tap; so have all that follow."""
    at_infinity: np.ndarray
    """The end of a phase's reads that have a form's last tap."""
    offsets: np.ndarray
    """Where each read of tile 0, point 0 is."""
    taps: np.ndarray
    """The filter's columns that each read multiplies with, -1 for none: (reads, taps of the form)."""


READS = types.NamedTuple((types.intp,) * 10 + (types.intp[::1],) * 4 + (types.intp[:, ::1],), Reads)


@leaf_part
def reads_at(point, phase, reads):
    """The range of a phase's reads whose filters are not zero at a point."""
    begin = reads.at_zero[phase] if point == 0 else reads.first[phase]
    end = reads.at_infinity[phase] if point == reads.points - 1 else reads.first[phase + 1]
    return begin, end


@leaf_part
def _ends(taps):
    """0 for a read that has only the last of a form's first and last tap, 2 for one that has only the first, else 1."""
    return 1 + (taps[0] >= 0) - (taps[-1] >= 0)


@plain_part
def plan_reads(columns, tile_columns, form):
    """The reads of an axis by one form of minimal filtering, for tiles of ``tile_columns`` bases."""
    outputs, taps = FORM_OUTPUTS[form], FORM_TAPS[form]
    points, step = outputs + taps - 1, columns.in_step
    parts = ceil_div(ceil_div(columns.span, step), taps)
    # Part i of tile m starts at m * outputs + i * taps: a multiple of the smaller, which divides the larger.
    apart = min(outputs, taps) if parts > 1 else outputs
    tiles = ceil_div(tile_columns, outputs)
    tile_step, part_step = outputs // apart, taps // apart
    places = (tiles - 1) * tile_step + (parts - 1) * part_step + 1
    width = ((places - 1) * apart + points) * step
    row_vectors = step * points * places
    if points == 1:
        width = row_vectors = inputs_read(columns, tile_columns)
        tile_step = step

    first, most = integers(columns.out_step + 1), columns.out_step * parts * step
    at_zero, at_infinity = integers(columns.out_step), integers(columns.out_step)
    offsets, numbers = integers(most), new_array((most + 1, taps), np.int64)
    numbers[:] = -1
    first[0] = found = 0
    for phase in range(columns.out_step):
        # Those without the first tap, those with both ends, those without the last.
        for ends in range(3):
            if ends == 1:
                at_zero[phase] = found
            elif ends == 2:
                at_infinity[phase] = found
            for piece in range(parts):
                for start in range(step):
                    some = False
                    for t in range(columns.starts[phase], columns.starts[phase + 1]):
                        place, residue = divmod(columns.offsets[t] - columns.first, step)
                        if residue == start and piece * taps <= place < (piece + 1) * taps:
                            numbers[found, place - piece * taps] = columns.taps[t]
                            some = True
                    if some and ends == _ends(numbers[found]):
                        offsets[found] = start * points * places + piece * part_step
                        if points == 1:
                            offsets[found] = piece * step + start
                        found += 1
                    else:
                        numbers[found] = -1
        first[phase + 1] = found
    return Reads(
        form, points, outputs, tiles, width, step, apart * step, places, row_vectors, tile_step,
        first, at_zero, at_infinity, offsets[:found], numbers[:found],
    )  # fmt: skip
