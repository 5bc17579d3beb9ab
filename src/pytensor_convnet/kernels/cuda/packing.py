"""Filters as the matrix that a gathering correlation multiplies by: turned, in patches, split or scaled.

For each class and group, ``packed[k, m]`` is the filter's element at the taps ``(i, j)`` and channels that row ``k``
and column ``m`` meet in, 0 where they meet in none:

    i * dilation == first_tap[k] + residue_factor * residue(m), 0 <= i < taps, likewise j

Where a source must be prepared, too, one launch does both.

Floor: filters read once, the matrix written once, which for filters of small layers (10 KB in cifar1: 0.01 us) is
nothing beside a launch. Measured on an H100 (`docs/cuda-kernels.md`): 2 us, and 5 where filters and all else come from
memory; held back by the start and end of a launch, and by waits for memory, one after the other. Of large filters it
is not measured by itself, but as part of the passes.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.copying import COUNTS as COPY_COUNTS
from pytensor_convnet.kernels.cuda.copying import Copy, copy_again, copy_tile
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.gathering import Gathering
from pytensor_convnet.kernels.cuda.magnitudes import sampled_part
from pytensor_convnet.kernels.cuda.products import DTYPES, power_of_two, round_to_tf32, scale_exponent, split

TILE = 32
"""Rows and columns that a program packs: few, as there are few filters and many multiprocessors."""


@dataclass(frozen=True)
class Packed:
    """A matrix of filters, (planes, groups, rows * columns), and the powers of two that were multiplied in.

    ``planes`` is 2 for bf16x3, high and low halves, else 1. The matrix of tf32, if not in stages, is stored by columns,
    as that product's instruction wants it. ``scales`` holds the inverses of the factors of source and filters, for
    float16 alone; of a matrix in stages two zeros more, for `window_kernel` to note in.
    """

    matrix: torch.Tensor
    scales: torch.Tensor
    column_count: int


COUNTS = ["filters_start", "source_stride", "target_stride", "row_stride", "column_stride", "group_stride", "row_count",
          "column_count", "outputs", "target_channels", "residues_across", "rows_dilation", "columns_dilation",
          "rows_taps", "columns_taps", "rows_residue_factor", "columns_residue_factor",
          "packed_plane_stride"]  # fmt: skip
"""The integers of packing, which no kernel is compiled for."""


@triton.jit
def pack_tile(
    program, filters, taps, partials, packed, scales,
    filters_start, source_stride, target_stride, row_stride, column_stride, group_stride,
    row_count, column_count, outputs, target_channels, residues_across,
    rows_dilation, columns_dilation, rows_taps, columns_taps, rows_residue_factor, columns_residue_factor,
    packed_plane_stride,
    PRODUCT: tl.constexpr, PARTIALS: tl.constexpr, STAGE_ROWS: tl.constexpr, OUTPUTS: tl.constexpr, TILE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Pack the tile of a program."""
    row_blocks = tl.cdiv(row_count, TILE)
    column_blocks = tl.cdiv(column_count, TILE)
    k = (program % row_blocks) * TILE + tl.arange(0, TILE)
    m = (program // row_blocks % column_blocks) * TILE + tl.arange(0, TILE)
    group = (program // row_blocks // column_blocks).to(tl.int64)
    inside = k < row_count
    y = tl.load(taps + k, mask=inside, other=0)
    x = tl.load(taps + row_count + k, mask=inside, other=0)
    c = tl.load(taps + 2 * row_count + k, mask=inside, other=-1)
    residue = m // target_channels
    y = y[:, None] + (rows_residue_factor * (residue // residues_across))[None, :]
    x = x[:, None] + (columns_residue_factor * (residue % residues_across))[None, :]
    i = y // rows_dilation
    j = x // columns_dilation
    meet = (y >= 0) & (x >= 0) & (i * rows_dilation == y) & (j * columns_dilation == x)
    meet = meet & (i < rows_taps) & (j < columns_taps) & (c >= 0)[:, None] & (m < outputs)[None, :]
    place = c.to(tl.int64)[:, None] * source_stride + (m % target_channels).to(tl.int64)[None, :] * target_stride
    place += i * row_stride + j * column_stride + group * group_stride + filters_start
    await_predecessor(DEPENDENT)
    w = tl.load(filters + place, mask=meet, other=0.0)
    if STAGE_ROWS:
        of_stage, of_block = k // STAGE_ROWS * STAGE_ROWS, m // OUTPUTS
        column, row = m % OUTPUTS, k % STAGE_ROWS
        target = packed + (of_block[None, :] * row_count + of_stage[:, None]) * OUTPUTS
        if PRODUCT == "tf32":
            target += (column * 4)[None, :] + ((row // 8 * 2 + row % 2) * OUTPUTS * 4 + row % 8 // 2)[:, None]
        else:
            target += (column // 8 * STAGE_ROWS * 8 + column % 8)[None, :] + (row * 8)[:, None]
    elif PRODUCT == "tf32":
        target = packed + (group * column_count + m.to(tl.int64)[None, :]) * row_count + k[:, None]
    else:
        target = packed + (group * row_count + k.to(tl.int64)[:, None]) * column_count + m[None, :]
    present = inside[:, None] & (m < column_count)[None, :]
    if PRODUCT == "float16":
        source_exponent = scale_exponent(partials, PARTIALS)
        filter_exponent = scale_exponent(partials + PARTIALS, PARTIALS)
        w = w * power_of_two(filter_exponent)
        if program == 0:
            tl.store(scales, power_of_two(-source_exponent))
            tl.store(scales + 1, power_of_two(-filter_exponent))
            if STAGE_ROWS:
                tl.store(scales + 2, 0.0)
                tl.store(scales + 3, 0.0)
    if PRODUCT == "tf32":
        w = round_to_tf32(w)
    if PRODUCT == "bf16x3":
        high, low = split(w)
        tl.store(target, high, mask=present)
        tl.store(target + packed_plane_stride, low, mask=present)
    else:
        tl.store(target, w.to(packed.dtype.element_ty), mask=present)


@triton.jit(do_not_specialize=COUNTS)
def _pack(
    filters, taps, partials, packed, scales,
    filters_start, source_stride, target_stride, row_stride, column_stride, group_stride,
    row_count, column_count, outputs, target_channels, residues_across,
    rows_dilation, columns_dilation, rows_taps, columns_taps, rows_residue_factor, columns_residue_factor,
    packed_plane_stride,
    PRODUCT: tl.constexpr, PARTIALS: tl.constexpr, STAGE_ROWS: tl.constexpr, OUTPUTS: tl.constexpr, TILE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    pack_tile(
        tl.program_id(0), filters, taps, partials, packed, scales,
        filters_start, source_stride, target_stride, row_stride, column_stride, group_stride,
        row_count, column_count, outputs, target_channels, residues_across,
        rows_dilation, columns_dilation, rows_taps, columns_taps, rows_residue_factor, columns_residue_factor,
        packed_plane_stride, PRODUCT, PARTIALS, STAGE_ROWS, OUTPUTS, TILE, DEPENDENT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["pack_programs", *COUNTS, *COPY_COUNTS])
def _pack_and_copy(
    pack_programs, filters, taps, partials, packed, scales,
    filters_start, source_stride, target_stride, row_stride, column_stride, group_stride,
    row_count, column_count, outputs, target_channels, residues_across,
    rows_dilation, columns_dilation, rows_taps, columns_taps, rows_residue_factor, columns_residue_factor,
    packed_plane_stride,
    source, target, of_copy, outer_count, inner_units, target_units, along_blocks, across_blocks,
    source_step, source_rest, target_step, target_rest, target_plane_units,
    PRODUCT: tl.constexpr, PARTIALS: tl.constexpr, STAGE_ROWS: tl.constexpr, OUTPUTS: tl.constexpr, TILE: tl.constexpr,
    BOUNDS: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr, ALONG_INNERMOST: tl.constexpr, UNIT: tl.constexpr,
    TARGET_UNIT: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if program < pack_programs:
        pack_tile(
            program, filters, taps, partials, packed, scales,
            filters_start, source_stride, target_stride, row_stride, column_stride, group_stride,
            row_count, column_count, outputs, target_channels, residues_across,
            rows_dilation, columns_dilation, rows_taps, columns_taps, rows_residue_factor, columns_residue_factor,
            packed_plane_stride, PRODUCT, PARTIALS, STAGE_ROWS, OUTPUTS, TILE, DEPENDENT,
        )  # fmt: skip
    else:
        copy_tile(
            program - pack_programs, source, target, of_copy, outer_count, inner_units, target_units, along_blocks,
            across_blocks, source_step, source_rest, target_step, target_rest, target_plane_units,
            PRODUCT, PARTIALS, BOUNDS, ALONG, ACROSS, ALONG_INNERMOST, UNIT, TARGET_UNIT, DEPENDENT,
        )  # fmt: skip


def pack(
    filters: torch.Tensor, plan: Gathering, taps: torch.Tensor, gradient: bool, flip: bool, product: str,
    partials: torch.Tensor | None, column_multiple: int, copy: Copy | None = None, stage_rows: int = 0,
    of_copy: torch.Tensor | None = None,
) -> Packed:  # fmt: skip
    """The filters, (filters, channels // groups, rows, columns) with any strides, as a gathering wants them.

    Parameters
    ----------
    taps : tensor
        See `gathering.Tables`.
    partials : tensor or None
        Of `largest_magnitudes` of source and filters, for float16 alone.
    column_multiple : int
        Columns are padded to a multiple of this.
    copy : Copy or None
        That of a `preparation` for the product, done by the same launch.
    stage_rows : int
        Where filters are to lie in stages of so many rows: of each stage and block of ``column_multiple`` columns, 8
        columns together, rows of these 8 after each other; of tf32 of each 8 rows the even ones first, then the odd
        ones, these 4 together for each column. Else 0.
    of_copy : tensor or None
        The row of `largest_magnitudes` of what is copied, for float16, where that is not the source.
    """
    row_count = taps.shape[1]
    column_count = -(-plan.outputs // column_multiple) * column_multiple
    dtype = DTYPES.get(product, filters.dtype)
    planes = 2 if product == "bf16x3" else 1
    device = filters.device
    packed = torch.empty((planes, plan.groups, row_count * column_count), dtype=dtype, device=device)
    scales = torch.empty(4 if stage_rows else 2, dtype=torch.float32, device=device)
    filter_stride, channel_stride, row_stride, column_stride = filters.stride()
    per_group = filters.shape[0] // plan.groups
    start = 0
    if flip:
        start = (filters.shape[2] - 1) * row_stride + (filters.shape[3] - 1) * column_stride
        row_stride, column_stride = -row_stride, -column_stride
    source_stride, target_stride = (filter_stride, channel_stride) if gradient else (channel_stride, filter_stride)
    programs = plan.groups * triton.cdiv(row_count, TILE) * triton.cdiv(column_count, TILE)
    arguments = (
        filters, taps, partials, packed, scales,
        start, source_stride, target_stride, row_stride, column_stride, per_group * filter_stride,
        row_count, column_count, plan.outputs, plan.target_channels, plan.columns.classes[0].count,
        plan.rows.dilation, plan.columns.dilation, plan.rows.taps, plan.columns.taps,
        plan.rows.residue_factor, plan.columns.residue_factor, packed.stride(0),
    )  # fmt: skip
    settings = product, 0 if partials is None else partials.shape[1]
    outputs = column_multiple if stage_rows else 0
    options = {"num_warps": 4, **launch_options(device)}
    if copy is None:
        _pack[(programs,)](*arguments, *settings, stage_rows, outputs, TILE, **options)
    else:
        tells_scale = of_copy is None  # the source's own is copied, by which products are scaled
        if tells_scale and partials is not None:
            of_copy = partials[0]
        _pack_and_copy[(programs + copy.programs,)](
            programs, *arguments, copy.source, copy.target, of_copy, *copy.counts, *settings, stage_rows, outputs, TILE,
            sampled_part(partials), *copy.settings, **options,
        )  # fmt: skip
        copy_again(copy, of_copy, scales if tells_scale else None)
    return Packed(packed, scales, column_count)
