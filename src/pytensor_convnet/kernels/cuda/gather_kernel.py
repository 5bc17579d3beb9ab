"""The kernel of forward pass and input gradient: a product of matrices whose right factor is gathered.

The loop nest, for each group and class of residues (see `gathering`), each block of outputs m, each block of positions
and images (p, b)::

    for k in blocks of the rows that lie inside the source at p:
        target[m, (p, b)] += packed[k, m] * source[offset[k] + position[p], b]

With the batch innermost in memory a block is one position and a run of images: each row of the gathered tile is one
coalesced run, an image's border is one test for the whole row, and rows of filters that fall on padding above or below
are skipped for good. Elsewhere a block is several positions of one image or of a few. Which row lies where is counted
from block to block or, where that follows no steps, looked up. One compiled kernel serves every filter size, stride,
padding and dilation.

Floors: source and target moved once; two floating-point operations a multiply-add, at the product's rate, in float32
tf32's. Microseconds of the best gathering on an H100, preparation and packing counted, as candidates were timed when
windows were new (the last two later), of the floors in the tables of `docs/cuda-kernels.md`:

==============  ======================  ======================
forward         float32                 bfloat16
==============  ======================  ======================
alex1           180 of 73: 41%          109 of 37: 34%
  input grad    200 of 73: 37%          112 of 37: 33%
cb1             609 of 306: 50%         487 of 158: 32%
  input grad    1156 of 306: 26%        702 of 158: 22%
cifar1_b1024    132 of 93: 71%          89 of 47: 52%
  input grad    269 of 93: 35%          110 of 47: 42%
stride2_1024    252 of 134: 53%         104 of 67: 64%
cb3             471 of 482: 102%
vgg3                                    357 of 301: 84%
==============  ======================  ======================

Held back by what is read of the second-level cache, each pixel again for each tap (`window_kernel` reads less), and in
float32 by the copy to float16 before, which for cifar1_b1024's input gradient takes as long as the product. Products of
float16 may pass tf32's rate.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import unit_of
from pytensor_convnet.kernels.cuda.gathering import SPARE_ROWS, Gathering, Tables
from pytensor_convnet.kernels.cuda.packing import Packed
from pytensor_convnet.kernels.cuda.products import add_product, chain_of, exponent_of, times_powers_of_two

ALIGNED = tl.constexpr(16)
"""Blocks of rows begin at multiples of this."""


@dataclass(frozen=True)
class Blocks:
    """How a gathering correlation is cut into programs.

    Attributes
    ----------
    outputs : int
        Rows of a tile: channels of the target, times residues.
    pixels : int
        Columns of a tile: images x positions.
    images : int
        How many of these are of one position. As many as ``pixels`` where the batch is innermost.
    rows : int
        How many rows of the matrix a step takes.
    warps, stages : int
    images_first : bool
        Whether images are the product's rows, which tensor cores take 64 at a time, and which may come from registers.
    """

    outputs: int
    pixels: int
    images: int
    rows: int
    warps: int
    stages: int
    images_first: bool


@triton.jit
def _next_place(y, x, c, y_advance, x_advance, c_advance, y_step, x_step, x_span, x_end, channels):
    """Place and channel of rows of the matrix, a block of rows further on, where places follow each other by steps."""
    c += c_advance
    carry = c >= channels
    c = tl.where(carry, c - channels, c)
    x += x_advance + tl.where(carry, x_step, 0)
    carry = x >= x_end
    x = tl.where(carry, x - x_span, x)
    y += y_advance + tl.where(carry, y_step, 0)
    return y, x, c


@triton.jit
def _add_rows(
    source, filters, gather, k, place, present, source_row, source_column, y, x, c, first, stop, part,
    source_rows, source_columns, source_channels, source_row_stride, source_column_stride, source_channel_stride,
    source_plane_units, row_count, column_count, plane_units,
    PRODUCT: tl.constexpr, LEAVES_SOURCE: tl.constexpr, WHOLE_CHANNELS: tl.constexpr, REGULAR: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, POSITIONS: tl.constexpr, IMAGES_FIRST: tl.constexpr,
):  # fmt: skip
    """Add the products of a block of rows, ``first`` and on, to a partial sum."""
    first = tl.multiple_of(first, ALIGNED)
    if REGULAR:
        if WHOLE_CHANNELS:
            c += k
        if WIDE:
            offset = y.to(tl.int64) * source_row_stride + x.to(tl.int64) * source_column_stride
            offset += c.to(tl.int64) * source_channel_stride
        else:
            offset = y * source_row_stride + x * source_column_stride + c * source_channel_stride
    elif WHOLE_CHANNELS:
        y = tl.load(gather + row_count + first)
        x = tl.load(gather + 2 * row_count + first)
        c = tl.load(gather + 3 * row_count + first) + k
        offset = tl.load(gather + first) + k * source_channel_stride
    else:
        offset = tl.load(gather + first + k)
        if LEAVES_SOURCE:
            y = tl.load(gather + row_count + first + k)
            x = tl.load(gather + 2 * row_count + first + k)
    if WHOLE_CHANNELS:
        # All rows of the block have the same taps; only channels differ.
        valid = (source_row + y >= 0) & (source_row + y < source_rows)
        valid = valid & (source_column + x >= 0) & (source_column + x < source_columns)
        if POSITIONS == 1:
            mask = (c < tl.where(valid, source_channels, 0))[:, None] & present[None, :]
        else:
            mask = (c < source_channels)[:, None] & (valid & present)[None, :]
    else:
        used = first + k < stop
        if REGULAR:
            used = used & (c < source_channels)
        mask = used[:, None] & present[None, :]
        if LEAVES_SOURCE:
            if POSITIONS == 1:
                valid = (source_row + y >= 0) & (source_row + y < source_rows)
                valid = valid & (source_column + x >= 0) & (source_column + x < source_columns)
                mask = mask & valid[:, None]
            else:
                down = y[:, None] + source_row[None, :]
                across = x[:, None] + source_column[None, :]
                mask = mask & (down >= 0) & (down < source_rows) & (across >= 0) & (across < source_columns)
    place_of_tile = source + ((offset * UNIT)[:, None] + place[None, :])
    values = tl.load(place_of_tile, mask=mask, other=0.0)
    if PRODUCT == "tf32":
        w = tl.load(filters + first)
    else:
        w = tl.load(filters + first * column_count)
    if PRODUCT == "bf16x3":
        if WIDE:
            source_plane_units = source_plane_units.to(tl.int64)
        low = tl.load(place_of_tile + source_plane_units * 16, mask=mask, other=0.0)
        w_low = tl.load(filters + first * column_count + plane_units * 16)
        if IMAGES_FIRST:
            part = add_product(tl.trans(low), w, part, PRODUCT)
            part = add_product(tl.trans(values), w_low, part, PRODUCT)
        else:
            part = add_product(w, low, part, PRODUCT)
            part = add_product(w_low, values, part, PRODUCT)
    if IMAGES_FIRST:
        part = add_product(tl.trans(values), w, part, PRODUCT)
    else:
        part = add_product(w, values, part, PRODUCT)
    return part


@triton.jit(
    do_not_specialize=["batch_units", "target_batch_units", "source_rows", "source_columns",
                       "source_row_stride", "source_column_stride", "source_channel_stride", "source_group_stride",
                       "source_channels", "source_plane_units", "row_units", "column_units", "plane_units", "outputs",
                       "target_channels", "residues_down", "residues_across", "patch_rows", "patch_columns",
                       "classes_across", "step_rows", "step_columns", "position_rows", "position_columns",
                       "target_rows", "target_columns", "target_channel_stride", "target_row_stride",
                       "target_column_stride", "target_group_stride", "output_blocks", "position_blocks",
                       "batch_blocks", "class_count", "padded_channels", "y_step", "x_step"]
)  # fmt: skip
def _gather_correlate(
    source, packed, gather, ranges, origins, target, scales,
    batch_units, target_batch_units, source_rows, source_columns,
    source_batch_stride, source_row_stride, source_column_stride, source_channel_stride, source_group_stride,
    source_channels, source_plane_units, row_units, column_units, plane_units, outputs,
    target_channels, residues_down, residues_across, patch_rows, patch_columns, classes_across,
    step_rows, step_columns, position_rows, position_columns, target_rows, target_columns,
    target_batch_stride, target_channel_stride, target_row_stride, target_column_stride, target_group_stride,
    output_blocks, position_blocks, batch_blocks, class_count, padded_channels, y_step, x_step,
    PRODUCT: tl.constexpr, LEAVES_SOURCE: tl.constexpr, WHOLE_CHANNELS: tl.constexpr, REGULAR: tl.constexpr,
    UNIT: tl.constexpr, TARGET_UNIT: tl.constexpr, WIDE: tl.constexpr, OUTPUTS: tl.constexpr, PIXELS: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, IMAGES_FIRST: tl.constexpr, CHAIN: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    output_block = program % output_blocks
    program = program // output_blocks
    position_block = program % position_blocks
    program = program // position_blocks
    batch_block = program % batch_blocks
    program = program // batch_blocks
    entry = program % class_count
    group = program // class_count

    # Where the columns of the tile are. With one position to a block all of this but `image` is scalar.
    POSITIONS: tl.constexpr = PIXELS // IMAGES
    pixel = tl.arange(0, PIXELS)
    batch = batch_units * UNIT
    if POSITIONS == 1:
        image = batch_block * IMAGES + pixel
        row = position_block // position_columns
        column = position_block % position_columns
        present = image < batch
    else:
        image = batch_block * IMAGES + pixel % IMAGES
        position = position_block * POSITIONS + pixel // IMAGES
        row = position // position_columns
        column = position % position_columns
        present = (image < batch) & (row < position_rows)
    source_row = row * step_rows
    source_column = column * step_columns
    row_count = row_units * 16
    if WIDE:
        place = image.to(tl.int64) * source_batch_stride
        origin = source_row.to(tl.int64) * source_row_stride + source_column.to(tl.int64) * source_column_stride
    else:
        place = image * source_batch_stride
        origin = source_row * source_row_stride + source_column * source_column_stride
    place += origin * UNIT
    source += group.to(tl.int64) * source_group_stride * UNIT

    # The rows of the matrix that lie inside the source; a block of several rows of positions takes all of them.
    if POSITIONS == 1:
        ranges += (entry * position_rows + row) * 2
        start = tl.load(ranges)
        stop = tl.load(ranges + 1)
    else:
        first_row = position_block * POSITIONS // position_columns
        last_row = tl.minimum((position_block * POSITIONS + POSITIONS - 1) // position_columns, position_rows - 1)
        ranges += entry * position_rows * 2
        start = tl.minimum(tl.load(ranges + first_row * 2), tl.load(ranges + last_row * 2))
        stop = tl.maximum(tl.load(ranges + first_row * 2 + 1), tl.load(ranges + last_row * 2 + 1))

    start = start // ALIGNED * ALIGNED  # rows before those of the class have no effect

    k = tl.arange(0, ROWS)

    # Places and channels of the first block of rows, which come in the order (y, x, channel), and how to go on.
    y = 0
    x = 0
    c = 0
    if REGULAR:
        x_first = tl.load(origins + entry * 4 + 2)
        x_count = tl.maximum(tl.load(origins + entry * 4 + 3), 1)
        x_span = x_count * x_step
        x_end = x_first + x_span
        c = start - tl.load(origins + entry * 4)
        if not WHOLE_CHANNELS:
            c = c + k
        tap = c // padded_channels
        c = c % padded_channels
        y = tl.load(origins + entry * 4 + 1) + tap // x_count * y_step
        x = x_first + tap % x_count * x_step
        c_advance = ROWS % padded_channels
        x_advance = (ROWS // padded_channels) % x_count * x_step
        y_advance = (ROWS // padded_channels) // x_count * y_step

    m = output_block * OUTPUTS + tl.arange(0, OUTPUTS)
    column_count = column_units * 16
    if PRODUCT == "tf32":
        packed += (group.to(tl.int64) * column_count + output_block * OUTPUTS) * row_count
        if IMAGES_FIRST:
            filters = packed + tl.arange(0, OUTPUTS)[None, :] * row_count + k[:, None]
        else:
            filters = packed + tl.arange(0, OUTPUTS)[:, None] * row_count + k[None, :]
    else:
        packed += group.to(tl.int64) * row_count * column_count + output_block * OUTPUTS
        if IMAGES_FIRST:
            filters = packed + k[:, None] * column_count + tl.arange(0, OUTPUTS)[None, :]
        else:
            filters = packed + k[None, :] * column_count + tl.arange(0, OUTPUTS)[:, None]
    if IMAGES_FIRST:
        total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    else:
        total = tl.zeros((OUTPUTS, PIXELS), tl.float32)

    await_predecessor(DEPENDENT)
    # Sums are long chains of additions, whose rounding adds up. Where that shows, they are made of shorter ones.
    if CHAIN:
        for chain in range(start, stop, CHAIN):
            part = tl.zeros_like(total)
            for first in range(chain, tl.minimum(chain + CHAIN, stop), ROWS):
                part = _add_rows(
                    source, filters, gather, k, place, present, source_row, source_column, y, x, c, first, stop, part,
                    source_rows, source_columns, source_channels, source_row_stride, source_column_stride,
                    source_channel_stride, source_plane_units, row_count, column_count, plane_units,
                    PRODUCT, LEAVES_SOURCE, WHOLE_CHANNELS, REGULAR, UNIT, WIDE, POSITIONS, IMAGES_FIRST,
                )  # fmt: skip
                if REGULAR:
                    y, x, c = _next_place(
                        y, x, c, y_advance, x_advance, c_advance, y_step, x_step, x_span, x_end, padded_channels
                    )
            total += part
    else:
        for first in range(start, stop, ROWS):
            total = _add_rows(
                source, filters, gather, k, place, present, source_row, source_column, y, x, c, first, stop, total,
                source_rows, source_columns, source_channels, source_row_stride, source_column_stride,
                source_channel_stride, source_plane_units, row_count, column_count, plane_units,
                PRODUCT, LEAVES_SOURCE, WHOLE_CHANNELS, REGULAR, UNIT, WIDE, POSITIONS, IMAGES_FIRST,
            )  # fmt: skip
            if REGULAR:
                y, x, c = _next_place(
                    y, x, c, y_advance, x_advance, c_advance, y_step, x_step, x_span, x_end, padded_channels
                )

    if PRODUCT == "float16":
        total = times_powers_of_two(total, exponent_of(tl.load(scales)), exponent_of(tl.load(scales + 1)))
    # Each output goes to its residue of the patch.
    residue = m // target_channels
    down = (entry // classes_across) * residues_down + residue // residues_across
    across = (entry % classes_across) * residues_across + residue % residues_across
    channel = m % target_channels
    target += group.to(tl.int64) * target_group_stride * TARGET_UNIT
    if IMAGES_FIRST:
        down = down[None, :]
        across = across[None, :]
        channel = channel[None, :]
        image = image[:, None]
        mask = (m < outputs)[None, :] & present[:, None]
        if POSITIONS > 1:
            row = row[:, None]
            column = column[:, None]
    else:
        down = down[:, None]
        across = across[:, None]
        channel = channel[:, None]
        image = image[None, :]
        mask = (m < outputs)[:, None] & present[None, :]
        if POSITIONS > 1:
            row = row[None, :]
            column = column[None, :]
    y = row * patch_rows + down
    x = column * patch_columns + across
    mask = mask & (y < target_rows) & (x < target_columns) & (image < target_batch_units * TARGET_UNIT)
    if WIDE:
        y = y.to(tl.int64)
        x = x.to(tl.int64)
        channel = channel.to(tl.int64)
        image = image.to(tl.int64)
    offset = channel * target_channel_stride + y * target_row_stride + x * target_column_stride
    offset = offset * TARGET_UNIT + image * target_batch_stride
    tl.store(target + offset, total.to(target.dtype.element_ty), mask=mask)


def gather_correlate(
    source_planes: torch.Tensor, packed: Packed, plan: Gathering, tables: Tables, target: torch.Tensor, product: str,
    blocks: Blocks, unit: int, wide: bool,
) -> None:  # fmt: skip
    """Write the pass that ``plan`` describes to ``target``.

    Parameters
    ----------
    source_planes : tensor, (planes, batch, channels, rows, columns)
        Two planes for bf16x3, else one.
    unit : int
        Divides the strides of a batch-last source, whose batch may be read up to a multiple of it.
    """
    source = source_planes[0]
    assert blocks.rows <= SPARE_ROWS
    target_unit = unit_of(target)
    padded_batch = -(-plan.batch // unit) * unit
    positions = plan.rows.positions * plan.columns.positions
    output_blocks = triton.cdiv(plan.outputs, blocks.outputs)
    position_blocks = triton.cdiv(positions, blocks.pixels // blocks.images)
    batch_blocks = triton.cdiv(plan.batch, blocks.images)
    programs = output_blocks * position_blocks * batch_blocks * plan.class_count * plan.groups
    if programs == 0:
        return
    whole_channels = plan.padded_channels % blocks.rows == 0
    sb, sc, sh, sw = source.stride()
    tb, tc, th, tw = target.stride()
    _gather_correlate[(programs,)](
        source, packed.matrix, tables.gather, tables.ranges, tables.origins, target, packed.scales,
        padded_batch // unit, plan.batch // target_unit, plan.rows.source_length, plan.columns.source_length,
        sb, sh // unit, sw // unit, sc // unit, plan.source_channels * sc // unit,
        plan.source_channels, source_planes.stride(0) // 16,
        tables.row_count // 16, packed.column_count // 16, packed.matrix.stride(0) // 16, plan.outputs,
        plan.target_channels, plan.rows.classes[0].count, plan.columns.classes[0].count,
        plan.rows.patch, plan.columns.patch, len(plan.columns.classes),
        plan.rows.step, plan.columns.step, plan.rows.positions, plan.columns.positions,
        plan.rows.target_length, plan.columns.target_length,
        tb, tc // target_unit, th // target_unit, tw // target_unit, plan.target_channels * tc // target_unit,
        output_blocks, position_blocks, batch_blocks, plan.class_count, plan.padded_channels, plan.rows.place_step,
        plan.columns.place_step, product, plan.leaves_source, whole_channels, plan.is_regular,
        unit, target_unit, wide, blocks.outputs, blocks.pixels, blocks.images, blocks.rows, blocks.images_first,
        chain_of(product, max(plan.class_rows())),
        num_warps=blocks.warps, num_stages=blocks.stages,
        **launch_options(source.device),
    )  # fmt: skip
