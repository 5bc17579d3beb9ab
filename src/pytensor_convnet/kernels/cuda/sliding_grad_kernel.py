"""The kernel of the filter gradient that reads each source pixel once for all taps of a row.

The loop nest, for each group, each block of rows k = (tap row, channel), each block of filters m, over a share of all
runs of ``columns`` neighbouring map pixels of one row, and of images b::

    for j in the taps of a row, for q in the pixels of the run:
        partial[share, j, k, m] += source[offset[k] + origin(run) + q * stride + j, b] * maps[m, origin(run) + q, b]

Neighbouring pixels read the same source pixels for different taps, which `filter_grad_kernel` reads for each of them
anew. Here all sums of a row of taps are one program's, so a run of ``columns`` pixels reads (columns - 1) * stride +
taps source pixels instead of columns * taps, and a share of the same size has fewer sums, which the kernel that adds up
reads.

Floors: images and maps moved once; two floating-point operations a multiply-add, at the product's rate. Measured on an
H100 (`docs/cuda-kernels.md`): 49% of the floor for cifar1 (float32, by tf32: 12.5 of 6.1 us), whose three channels take
`filter_grad_kernel` 13.5; slower than that where channels are many. Held back by the latency of instructions, of which
a program has too few that could run meanwhile.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import await_only, launch_options, let_next_start
from pytensor_convnet.kernels.cuda.filter_grad_kernel import add_shares, program_place
from pytensor_convnet.kernels.cuda.gathering import Gathering
from pytensor_convnet.kernels.cuda.pool_tiles import no_tensors
from pytensor_convnet.kernels.cuda.products import add_product, chain_of, unscaled


@dataclass(frozen=True)
class SlidingBlocks:
    """How a filter gradient is cut into programs.

    Attributes
    ----------
    rows : int
        Rows of a tile: tap rows and channels.
    filters : int
        Columns of a tile.
    columns : int
        How many neighbouring map pixels a step takes.
    images : int
        How many images a step sums over.
    shares : int
        Into how many programs the sum is split, at most; more where sums would become too long for the product.
    warps, stages : int
    """

    rows: int
    filters: int
    columns: int
    images: int
    shares: int
    warps: int
    stages: int


@triton.jit
def _tiles(place, step, used, present, first, length, COUNT: tl.constexpr):
    """So many tiles, a ``step`` from each other, of rows whose ``used`` is 1; zeros beyond ``length``."""
    tiles = no_tensors()
    for number in tl.static_range(COUNT):
        inside = (first >= -number) & (first < length - number)
        exists = used > tl.where(inside, 0, 1)
        tiles = tiles + (tl.load(place + number * step, mask=exists[:, None] & present[None, :], other=0.0),)
    return tiles


@triton.jit
def _add_products(
    totals, source, maps, TAPS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr, PRODUCT: tl.constexpr
):
    """Each tap's sum with the products of the map pixels and the source pixels that they read for this tap."""
    sums = no_tensors()
    for j in tl.static_range(TAPS):
        part = totals[j]
        for q in tl.static_range(COLUMNS):
            part = add_product(source[q * STRIDE + j], tl.trans(maps[q]), part, PRODUCT)
        sums = sums + (part,)
    return sums


@triton.jit(
    do_not_specialize=["batch_units", "source_rows", "source_columns", "source_row_stride", "source_column_stride",
                       "source_channel_stride", "source_group_stride", "source_plane_units", "map_rows", "map_columns",
                       "map_row_stride", "map_column_stride", "map_filter_stride", "map_group_stride",
                       "map_plane_units", "channels", "used_rows", "filter_count", "stride_rows", "dilation_rows",
                       "top", "left", "row_blocks", "filter_blocks", "groups", "runs", "batch_blocks", "steps",
                       "steps_per_share"]
)  # fmt: skip
def _sliding_filter_grad(
    source, maps, magnitudes, partial, batch_units, source_rows, source_columns, source_row_stride,
    source_column_stride, source_channel_stride, source_group_stride, source_plane_units, map_rows, map_columns,
    map_row_stride, map_column_stride, map_filter_stride, map_group_stride, map_plane_units, channels, used_rows,
    filter_count, stride_rows, dilation_rows, top, left, row_blocks, filter_blocks, groups, runs, batch_blocks, steps,
    steps_per_share,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, PRODUCT: tl.constexpr, UNIT: tl.constexpr, MAP_UNIT: tl.constexpr,
    BATCH_UNIT: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, FILTERS: tl.constexpr, COLUMNS: tl.constexpr,
    IMAGES: tl.constexpr, PARTIALS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    row_block, filter_block, group, share = program_place(row_blocks, filter_blocks, groups)
    k = row_block * ROWS + tl.arange(0, ROWS)
    m = filter_block * FILTERS + tl.arange(0, FILTERS)
    y = k // channels * dilation_rows
    channel = k % channels
    filter = m
    batch = batch_units * BATCH_UNIT
    if WIDE:
        source_row_stride = tl.full((), source_row_stride, tl.int64)
        source_column_stride = tl.full((), source_column_stride, tl.int64)
        map_row_stride = tl.full((), map_row_stride, tl.int64)
        map_column_stride = tl.full((), map_column_stride, tl.int64)
        source_plane_units = tl.full((), source_plane_units, tl.int64)
        map_plane_units = tl.full((), map_plane_units, tl.int64)
        channel = channel.to(tl.int64)
        filter = filter.to(tl.int64)
    source += group.to(tl.int64) * source_group_stride * UNIT
    maps += group.to(tl.int64) * map_group_stride * MAP_UNIT
    source_offset = channel * source_channel_stride + y * source_row_stride
    map_offset = filter * map_filter_stride
    map_used = tl.where(m < filter_count, 1, 0)

    totals = no_tensors()
    for _ in tl.static_range(TAPS):
        totals = totals + (tl.zeros((ROWS, FILTERS), tl.float32),)
    await_only(DEPENDENT)
    first_step = share * steps_per_share
    for step in range(first_step, tl.minimum(first_step + steps_per_share, steps)):
        image = (step % batch_blocks) * IMAGES + tl.arange(0, IMAGES)
        run = step // batch_blocks
        row = run // runs
        column = run % runs * COLUMNS
        source_row = row * stride_rows - top
        source_column = column * STRIDE - left
        present = image < batch
        used = tl.where((k < used_rows) & (y + source_row >= 0) & (y + source_row < source_rows), 1, 0)
        origin = source_row * source_row_stride + source_column * source_column_stride
        place = source + (((source_offset + origin) * UNIT)[:, None] + image[None, :])
        map_origin = row * map_row_stride + column * map_column_stride
        map_place = maps + (((map_offset + map_origin) * MAP_UNIT)[:, None] + image[None, :])
        SPAN: tl.constexpr = (COLUMNS - 1) * STRIDE + TAPS
        b = _tiles(map_place, map_column_stride * MAP_UNIT, map_used, present, column, map_columns, COLUMNS)
        a = _tiles(place, source_column_stride * UNIT, used, present, source_column, source_columns, SPAN)
        if PRODUCT == "bf16x3":
            low = _tiles(
                map_place + map_plane_units * 16, map_column_stride * MAP_UNIT, map_used, present, column, map_columns,
                COLUMNS,
            )  # fmt: skip
            totals = _add_products(totals, a, low, TAPS, COLUMNS, STRIDE, PRODUCT)
            low = _tiles(
                place + source_plane_units * 16, source_column_stride * UNIT, used, present, source_column,
                source_columns, SPAN,
            )  # fmt: skip
            totals = _add_products(totals, low, b, TAPS, COLUMNS, STRIDE, PRODUCT)
        totals = _add_products(totals, a, b, TAPS, COLUMNS, STRIDE, PRODUCT)
    let_next_start(DEPENDENT)
    place = (share * groups + group).to(tl.int64) * TAPS * used_rows * filter_count
    place += k.to(tl.int64)[:, None] * filter_count + m[None, :]
    stored = (k < used_rows)[:, None] & (m < filter_count)[None, :]
    for j in tl.static_range(TAPS):
        total = totals[j]
        if PRODUCT == "float16":
            total = unscaled(total, magnitudes, PARTIALS)
        tl.store(partial + place + j * used_rows * filter_count, total, mask=stored)


@functools.cache  # without an end: captured graphs go on reading what is here
def _rows(plan: Gathering, device: torch.device) -> torch.Tensor:
    """Which row of a share, (taps across, taps down, channels), each element (row, column, channel) of a filter has."""
    lengths = plan.rows.taps, plan.columns.taps, plan.source_channels
    i, j, c = np.meshgrid(*map(np.arange, lengths), indexing="ij")
    return torch.from_numpy(((j * plan.rows.taps + i) * plan.source_channels + c).ravel()).to(device)


def shares_of(plan: Gathering, product: str, blocks: SlidingBlocks) -> tuple[int, int]:
    """Into how many shares the sum is split, and how many steps each has."""
    steps = plan.rows.positions * triton.cdiv(plan.columns.positions, blocks.columns)
    steps *= triton.cdiv(plan.batch, blocks.images)
    steps_per_share = max(1, triton.cdiv(steps, blocks.shares))
    terms = blocks.columns * blocks.images
    chain = chain_of(product, steps_per_share * terms)
    if chain:  # of which a longer sum would have to be made
        steps_per_share = max(1, chain // terms)
    return triton.cdiv(steps, steps_per_share), steps_per_share


def sliding_filter_grad(
    image_planes: torch.Tensor, map_planes: torch.Tensor, plan: Gathering, filters: torch.Tensor, flip: bool,
    product: str, magnitudes: torch.Tensor | None, blocks: SlidingBlocks, units: tuple[int, int], wide: bool,
) -> None:  # fmt: skip
    """Write the filter gradient, (filters, channels // groups, rows, columns), to ``filters``.

    Parameters
    ----------
    image_planes, map_planes : tensor, (planes, batch, channels, rows, columns)
        With the batch innermost in memory; two planes for bf16x3, else one.
    plan : Gathering
        That of the forward pass, one output at a time, its columns not dilated.
    magnitudes, units
        As for `filter_grad_kernel.filter_grad`.
    """
    assert plan.columns.dilation == 1
    images, maps = image_planes[0], map_planes[0]
    unit, map_unit = units
    batch_unit = min(units)
    rows, columns = plan.rows, plan.columns
    used_rows, filter_count = rows.taps * plan.source_channels, plan.target_channels
    shares, steps_per_share = shares_of(plan, product, blocks)
    runs, batch_blocks = triton.cdiv(columns.positions, blocks.columns), triton.cdiv(plan.batch, blocks.images)
    row_blocks, filter_blocks = triton.cdiv(used_rows, blocks.rows), triton.cdiv(filter_count, blocks.filters)
    if filters.numel() == 0:
        return
    size = plan.groups * columns.taps * used_rows * filter_count
    partial = torch.empty(shares * size, dtype=torch.float32, device=images.device)
    _, sc, sh, sw = images.stride()
    _, mf, mh, mw = maps.stride()
    _sliding_filter_grad[(row_blocks * filter_blocks * plan.groups * shares,)](
        images, maps, magnitudes, partial, -(-plan.batch // batch_unit), rows.source_length, columns.source_length,
        sh // unit, sw // unit, sc // unit, plan.source_channels * sc // unit, image_planes.stride(0) // 16,
        rows.target_length, columns.target_length, mh // map_unit, mw // map_unit, mf // map_unit,
        filter_count * mf // map_unit, map_planes.stride(0) // 16, plan.source_channels, used_rows, filter_count,
        rows.step, rows.dilation, rows.before, columns.before, row_blocks, filter_blocks, plan.groups, runs,
        batch_blocks, rows.positions * runs * batch_blocks, steps_per_share,
        columns.taps, columns.step, product, unit, map_unit, batch_unit, wide, blocks.rows, blocks.filters,
        blocks.columns, blocks.images, 0 if magnitudes is None else magnitudes.shape[1], num_warps=blocks.warps,
        num_stages=blocks.stages, **launch_options(images.device),
    )  # fmt: skip
    add_shares(partial, shares, plan, _rows(plan, filters.device), filters, flip)
