"""Rows of inputs on their way into lanes: packed as a pass reads them, plain or transformed."""

from numba import types

from pytensor_convnet.kernels.cpu.column_reads import READS
from pytensor_convnet.kernels.cpu.detached import detached
from pytensor_convnet.kernels.cpu.jit import leaf_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.minimal_filtering import transform_inputs
from pytensor_convnet.kernels.cpu.packing import (
    AXIS,
    IMAGES,
    RUNS,
    TILES,
    aim_at_collected,
    aim_at_inputs,
    collect,
    collects,
    pack_columns,
)


@leaf_part
def transform_row(raw, packed, at, reads):
    """Write the transforms of a row's tiles, for each place that one of every s-th column can start at."""
    lanes = VECTOR_BYTES // raw.itemsize
    for start in range(reads.starts):
        transform_inputs(
            reads.form, raw, start * lanes, reads.starts * lanes, reads.tile_inputs * lanes,
            packed, at + start * reads.points * reads.places * lanes, reads.places * lanes, lanes, reads.places,
        )  # fmt: skip


def _signature(number):
    source, numbers, integer = IMAGES[number], number[::1], types.intp
    rows = (integer,) * 3
    return (
        source, TILES, AXIS, AXIS, *rows, READS, integer, integer, numbers, integer, integer,
        types.boolean[::1], numbers, source, RUNS, integer,
    )  # fmt: skip


@detached(_signature, loops=True)
@leaf_part
def pack_rows(
    source, tiles, rows, columns, first, last, slots, reads, channel, channels, packed, row_step, channel_step,
    used, raw, collected, runs, origin,
):  # fmt: skip
    """Pack rows ``first`` to ``last`` of all lanes' tiles, all ``channels`` from ``channel`` on, as ``reads`` wants
    them; note in ``used`` which have more than padding. Row ``r`` goes to slot ``(r - origin) % slots``.

    A channel's rows follow each other, since they do so in the image. ``raw`` is memory for a row of one channel,
    ``collected`` and ``runs`` for all rows.
    """
    lanes = VECTOR_BYTES // source.itemsize
    count = last - first
    collecting = count * source.shape[3] * lanes <= collected.size and collects(source, tiles, count)
    for row in range(first, last):
        table = (row - first) * lanes
        used[(row - origin) % slots] = aim_at_inputs(source, tiles, rows, columns, row, reads.width, runs, table)
        if collecting:
            aim_at_collected(source, tiles, columns, row - first, count, runs, table)
    ahead = source.strides[1] if channels > 1 else count * source.strides[2]
    for c in range(channels):
        shift = (channel + c) * source.strides[1]
        if collecting:
            collect(source, tiles, rows, first, count, channel + c, collected)
        for row in range(first, last):
            slot, table = (row - origin) % slots, (row - first) * lanes
            at = slot * row_step + c * channel_step
            if not used[slot]:
                packed[at : at + reads.row_vectors * lanes] = 0
                continue
            to, to_at = (packed, at) if reads.points == 1 else (raw, 0)
            if collecting:
                pack_columns(collected, 0, reads.width, to, to_at, runs, table, 0)
            else:
                pack_columns(source, shift, reads.width, to, to_at, runs, table, ahead)
            if reads.points > 1:
                transform_row(raw, packed, at, reads)
