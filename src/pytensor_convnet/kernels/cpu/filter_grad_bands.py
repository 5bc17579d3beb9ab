"""What a band of rows adds to a filter gradient: its maps, packed, and register blocks of filters by taps.

Lanes are images, and are summed with all positions of the band.
"""

from pytensor_convnet.kernels.cpu.column_reads import reads_at
from pytensor_convnet.kernels.cpu.filter_grad_blocking import piece
from pytensor_convnet.kernels.cpu.jit import leaf_part, plain_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.minimal_filtering import transform_maps
from pytensor_convnet.kernels.cpu.packing import (
    aim_at_collected,
    aim_at_inputs,
    block_filters,
    ceil_div,
    collect,
    collects,
    inputs_read,
    integers,
    pack_columns,
)
from pytensor_convnet.kernels.cpu.register_blocks import MOST_COLUMNS, filter_grad_block

_PLANE_BYTES = 256 * 1024
"""Packed images of one point that stay in a core's second-level cache while all filters meet them."""


@leaf_part
def _rows_in_images(r, used, band_rows, rows):
    """The range of a band's rows of maps whose input rows for row tap ``r`` are more than padding."""
    offset = rows.offsets[r] - rows.first
    start, stop = 0, band_rows
    while start < stop and not used[start * rows.in_step + offset]:
        start += 1
    while start < stop and not used[(stop - 1) * rows.in_step + offset]:
        stop -= 1
    return start, stop


@leaf_part
def sum_band(
    images, used, maps, steps, taps, positions, partial, adding, filters, channels, band_rows, rows, reads
):  # fmt: skip
    """Add to a block of the gradient, which is none yet unless it is ``adding``, what one packed band contributes::

        for point: for f in range(filters):
            for row tap, read, channel:
                for y in range(band_rows): for tile in range(reads.tiles): for lane in range(lanes):
                    partial[point, row tap, read, channel, f] += (
                        maps[f, point, y, tile, lane] * images[channel, y + row tap, tile + read, point, lane]
                    )

    Row taps leave out the rows where they meet only padding; those of few products that leave out the same share
    register blocks. A point has the reads of `reads_at`. Floor: a multiply-add of a vector for each trip of the nest
    but the lanes, two a cycle; a register block of F filters and X taps loads F + X vectors for F * X of them.
    """
    map_step, point_step, plane_step = steps
    number_of_reads = reads.offsets.size
    row_sums = number_of_reads * channels
    plane_bytes = inputs_read(rows, band_rows) * plane_step * images.itemsize
    groups = min(channels, ceil_div(channels * plane_bytes, _PLANE_BYTES))
    for point in range(reads.points):
        begin, end = reads_at(point, 0, reads)
        for group in range(groups):
            first_channel, some = piece(group, groups, channels)
            # What follows each other: the channels of a read, of all reads, or of several row taps.
            runs, run = (1, some * (end - begin)) if some == channels else (end - begin, some)
            first = 0
            while first < filters:
                count = block_filters(filters - first)
                r = 0
                while r < rows.taps.size:
                    extent = _rows_in_images(r, used, band_rows, rows)
                    start, stop = extent
                    alike = 1
                    while (
                        run == row_sums
                        and run < MOST_COLUMNS[count]
                        and r + alike < rows.taps.size
                        and _rows_in_images(r + alike, used, band_rows, rows) == extent
                    ):
                        alike += 1
                    tap_blocks = ceil_div(alike * run, MOST_COLUMNS[count])
                    for number in range(runs * tap_blocks):
                        read, block = divmod(number, tap_blocks)
                        tap, size = piece(block, tap_blocks, alike * run)
                        tap += r * row_sums + (begin + read) * channels + first_channel
                        filter_grad_block(
                            count, size, images, point * plane_step, taps, tap,
                            positions, start * reads.tiles, stop * reads.tiles,
                            maps, first * map_step + point * point_step, map_step,
                            partial, (point * rows.taps.size * row_sums + tap) * filters + first, filters, adding,
                        )  # fmt: skip
                    r += alike
                first += count


@plain_part
def list_taps(channels, image_step, lanes, rows, reads):
    """Where in packed images each tap's product with the first tile of the first row is."""
    number_of_reads = reads.offsets.size
    taps = integers(rows.taps.size * number_of_reads * channels)
    for r in range(rows.taps.size):
        for channel in range(channels):
            for read in range(reads.offsets.size):
                row = rows.offsets[r] - rows.first
                number = (r * number_of_reads + read) * channels + channel
                taps[number] = channel * image_step + (row * reads.row_vectors + reads.offsets[read]) * lanes
    return taps


@plain_part
def list_positions(most_rows, lanes, rows, reads):
    """How far in packed images each tile is from the first tile of the first row."""
    positions = integers(most_rows * reads.tiles)
    for y in range(most_rows):
        for tile in range(reads.tiles):
            positions[y * reads.tiles + tile] = (y * rows.in_step * reads.row_vectors + tile * reads.tile_step) * lanes
    return positions


@leaf_part
def pack_maps(
    maps, tiles, rows, columns, first, last, reads, tile_columns, channel, channels, packed, steps, raw, collected, runs
):  # fmt: skip
    """Pack rows of all lanes' tiles of the maps, as ``reads`` transforms them."""
    map_step, point_step, _ = steps
    lanes = VECTOR_BYTES // maps.itemsize
    width, count = reads.tiles * reads.outputs, last - first
    collecting = count * maps.shape[3] * lanes <= collected.size and collects(maps, tiles, count)
    for row in range(first, last):
        table = (row - first) * lanes
        aim_at_inputs(maps, tiles, rows, columns, row, tile_columns, runs, table)
        if collecting:
            aim_at_collected(maps, tiles, columns, row - first, count, runs, table)
    for c in range(channels):
        shift = (channel + c) * maps.strides[1]
        if collecting:
            collect(maps, tiles, rows, first, count, channel + c, collected)
        for row in range(first, last):
            at, table = c * map_step + (row - first) * reads.tiles * lanes, (row - first) * lanes
            to, to_at = (packed, at) if reads.points == 1 else (raw, 0)
            if collecting:
                pack_columns(collected, 0, width, to, to_at, runs, table, 0)
            else:
                pack_columns(maps, shift, width, to, to_at, runs, table, maps.strides[1])
            if reads.points > 1:
                transform_maps(
                    reads.form, raw, 0, lanes, reads.outputs * lanes, packed, at, point_step, lanes, reads.tiles
                )
