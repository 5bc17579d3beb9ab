"""The kernel of the filter gradient: a product of matrices that sums over positions and images.

The loop nest, for each group, each block of rows k of the matrix of filters (see `gathering`) and each block of its
columns m, over a share of all positions and images (p, b)::

    partial[share, k, m] += source[offset[k] + position[p], b] * maps[m, p, b]

Columns are filters or, where the maps' pixels are taken in patches, filters of each pixel of a patch. Pixels of a patch
read most of the source together, at the price of products that belong to no tap.

With the batch innermost both operands are read in coalesced runs of images, and already lie as tensor cores want them:
the summed axis is innermost in both. Shares, and what the pixels of a patch give for the same tap, are added up by a
second kernel in a fixed order, so results are the same in every run.

Floors: images and maps moved once; two floating-point operations a multiply-add, at the product's rate. Measured on an
H100 (*Windows* of the filter gradient in `docs/cuda-kernels.md`, floors of its tables): in float32 48% of the floor
(alex1), 51% (cb1), 55% (stride2_1024) and 66% (cifar1_b1024), in bfloat16 47%, 52%, 59% and 73%, and of more channels
63% (cb2), 60% (cb3) and 40% (cb5). Where channels are few it is held back by what is read of the second-level cache,
each pixel again for each tap (`window_grad_kernel` reads less); where they are many, by warps that issue loads and
multiply, too, and by the size of tiles.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import (
    await_only,
    await_predecessor,
    launch_options,
    let_next_start,
)
from pytensor_convnet.kernels.cuda.gathering import Gathering, Tables
from pytensor_convnet.kernels.cuda.products import add_product, chain_of, split, unscaled

SUM_FILTERS, MOST_TERMS = 32, 256
"""The tile of the kernel that adds up: in one go, mostly, as a loop would wait for each of its loads."""


@dataclass(frozen=True)
class GradBlocks:
    """How a filter gradient is cut into programs.

    Attributes
    ----------
    rows : int
        Rows of a tile: rows of the matrix of filters, that is taps and channels.
    filters : int
        Columns of a tile: filters, times pixels of a patch.
    pixels : int
        Positions x images that a step sums over.
    images : int
        How many of these are of one position.
    shares : int
        Into how many programs the sum is split, at most.
    warps, stages : int
    """

    rows: int
    filters: int
    pixels: int
    images: int
    shares: int
    warps: int
    stages: int


@triton.jit
def program_place(row_blocks, column_blocks, groups):
    """The block of rows, the block of columns, the group and the share of the sum that a program computes."""
    program = tl.program_id(0)
    row_block = program % row_blocks
    program = program // row_blocks
    column_block = program % column_blocks
    program = program // column_blocks
    return row_block, column_block, program % groups, program // groups


@triton.jit
def _add_pixels(
    source, maps, used, offset, y, x, column_offset, column_exists, down, across, pixel, batch, step, part,
    source_rows, source_columns, source_batch_stride, source_row_stride, source_column_stride,
    map_batch_stride, map_row_stride, map_column_stride, source_plane_units, map_plane_units,
    step_rows, step_columns, patch_rows, patch_columns, map_rows, map_columns, position_rows, position_columns,
    batch_blocks, PRODUCT: tl.constexpr, LEAVES_SOURCE: tl.constexpr, LEAVES_MAPS: tl.constexpr, UNIT: tl.constexpr,
    MAP_UNIT: tl.constexpr, PREPARED: tl.constexpr, WIDE: tl.constexpr, POSITIONS: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Add the products of a block of positions and images to a partial sum."""
    if POSITIONS == 1:
        position = step // batch_blocks
        image = (step % batch_blocks) * IMAGES + pixel
        row = position // position_columns
        column = position % position_columns
        present = image < batch
    else:
        position = (step // batch_blocks) * POSITIONS + pixel // IMAGES
        image = (step % batch_blocks) * IMAGES + pixel % IMAGES
        row = position // position_columns
        column = position % position_columns
        present = (image < batch) & (row < position_rows)
    source_row = row * step_rows
    source_column = column * step_columns
    map_row = row * patch_rows
    map_column = column * patch_columns
    if WIDE:
        source_origin = source_row.to(tl.int64) * source_row_stride
        source_origin += source_column.to(tl.int64) * source_column_stride
        map_origin = map_row.to(tl.int64) * map_row_stride + map_column.to(tl.int64) * map_column_stride
        image = image.to(tl.int64)
    else:
        source_origin = source_row * source_row_stride + source_column * source_column_stride
        map_origin = map_row * map_row_stride + map_column * map_column_stride
    if LEAVES_SOURCE:
        if POSITIONS == 1:
            y += source_row
            x += source_column
            valid = used & (y >= 0) & (y < source_rows) & (x >= 0) & (x < source_columns)
            mask = valid[:, None] & present[None, :]
        else:
            y = y[:, None] + source_row[None, :]
            x = x[:, None] + source_column[None, :]
            mask = (y >= 0) & (y < source_rows) & (x >= 0) & (x < source_columns)
            mask = mask & used[:, None] & present[None, :]
    else:
        mask = used[:, None] & present[None, :]
    place = source_origin * UNIT + image * source_batch_stride
    place_of_a = source + ((offset * UNIT)[:, None] + place[None, :])
    a = tl.load(place_of_a, mask=mask, other=0.0)
    place = map_origin * MAP_UNIT + image * map_batch_stride
    place_of_b = maps + ((column_offset * MAP_UNIT)[:, None] + place[None, :])
    map_mask = column_exists[:, None] & present[None, :]
    if LEAVES_MAPS:
        if POSITIONS == 1:
            map_mask = map_mask & ((down < map_rows - map_row) & (across < map_columns - map_column))[:, None]
        else:
            map_mask = map_mask & (down[:, None] < (map_rows - map_row)[None, :])
            map_mask = map_mask & (across[:, None] < (map_columns - map_column)[None, :])
    b = tl.load(place_of_b, mask=map_mask, other=0.0)
    if PRODUCT == "bf16x3":
        if PREPARED:
            if WIDE:
                source_plane_units = source_plane_units.to(tl.int64)
                map_plane_units = map_plane_units.to(tl.int64)
            a_low = tl.load(place_of_a + source_plane_units * 16, mask=mask, other=0.0)
            b_low = tl.load(place_of_b + map_plane_units * 16, mask=map_mask, other=0.0)
        else:
            a, a_low = split(a)
            b, b_low = split(b)
        part = add_product(a_low, tl.trans(b), part, PRODUCT)
        part = add_product(a, tl.trans(b_low), part, PRODUCT)
    part = add_product(a, tl.trans(b), part, PRODUCT)
    return part


@triton.jit(
    do_not_specialize=["batch_units", "source_rows", "source_columns", "source_row_stride", "source_column_stride",
                       "source_group_stride", "map_filter_stride", "map_row_stride", "map_column_stride",
                       "map_group_stride", "source_plane_units", "map_plane_units", "row_count",
                       "used_rows", "filter_count", "column_count", "step_rows", "step_columns", "patch_rows",
                       "patch_columns", "map_rows", "map_columns", "position_rows", "position_columns", "row_blocks",
                       "column_blocks", "groups", "batch_blocks", "steps", "steps_per_share"]
)  # fmt: skip
def _filter_grad(
    source, maps, gather, magnitudes, partial, batch_units, source_rows, source_columns, source_batch_stride,
    source_row_stride, source_column_stride, source_group_stride, map_batch_stride, map_filter_stride, map_row_stride,
    map_column_stride, map_group_stride, source_plane_units, map_plane_units, row_count, used_rows, filter_count,
    column_count, step_rows, step_columns, patch_rows, patch_columns, map_rows, map_columns, position_rows,
    position_columns, row_blocks, column_blocks, groups, batch_blocks, steps, steps_per_share,
    PRODUCT: tl.constexpr, LEAVES_SOURCE: tl.constexpr, LEAVES_MAPS: tl.constexpr, UNIT: tl.constexpr,
    MAP_UNIT: tl.constexpr, BATCH_UNIT: tl.constexpr, PREPARED: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    FILTERS: tl.constexpr, PIXELS: tl.constexpr, IMAGES: tl.constexpr, PARTIALS: tl.constexpr, CHAIN: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    row_block, column_block, group, share = program_place(row_blocks, column_blocks, groups)
    k = row_block * ROWS + tl.arange(0, ROWS)
    m = column_block * FILTERS + tl.arange(0, FILTERS)
    used = k < used_rows
    offset = tl.load(gather + k, mask=used, other=0)
    y = tl.load(gather + row_count + k, mask=used, other=0)
    x = tl.load(gather + 2 * row_count + k, mask=used, other=0)
    residue = m // filter_count
    down = residue // patch_columns
    across = residue % patch_columns
    column_offset = m % filter_count
    if WIDE:
        column_offset = column_offset.to(tl.int64)
    column_offset = column_offset * map_filter_stride + down * map_row_stride + across * map_column_stride
    column_exists = m < column_count
    source += group.to(tl.int64) * source_group_stride * UNIT
    maps += group.to(tl.int64) * map_group_stride * MAP_UNIT

    POSITIONS: tl.constexpr = PIXELS // IMAGES
    pixel = tl.arange(0, PIXELS)
    batch = batch_units * BATCH_UNIT
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    await_only(DEPENDENT)
    first_step = share * steps_per_share
    last_step = tl.minimum(first_step + steps_per_share, steps)
    # Sums are long chains of additions, whose rounding adds up. Where that shows, they are made of shorter ones.
    if CHAIN:
        for chain in range(first_step, last_step, CHAIN // PIXELS):
            part = tl.zeros_like(total)
            for step in range(chain, tl.minimum(chain + CHAIN // PIXELS, last_step)):
                part = _add_pixels(
                    source, maps, used, offset, y, x, column_offset, column_exists, down, across, pixel, batch, step,
                    part,
                    source_rows, source_columns, source_batch_stride, source_row_stride, source_column_stride,
                    map_batch_stride, map_row_stride, map_column_stride, source_plane_units, map_plane_units,
                    step_rows, step_columns, patch_rows, patch_columns, map_rows, map_columns, position_rows,
                    position_columns, batch_blocks,
                    PRODUCT, LEAVES_SOURCE, LEAVES_MAPS, UNIT, MAP_UNIT, PREPARED, WIDE, POSITIONS, IMAGES,
                )  # fmt: skip
            total += part
    else:
        for step in range(first_step, last_step):
            total = _add_pixels(
                source, maps, used, offset, y, x, column_offset, column_exists, down, across, pixel, batch, step, total,
                source_rows, source_columns, source_batch_stride, source_row_stride, source_column_stride,
                map_batch_stride, map_row_stride, map_column_stride, source_plane_units, map_plane_units,
                step_rows, step_columns, patch_rows, patch_columns, map_rows, map_columns, position_rows,
                position_columns, batch_blocks,
                PRODUCT, LEAVES_SOURCE, LEAVES_MAPS, UNIT, MAP_UNIT, PREPARED, WIDE, POSITIONS, IMAGES,
            )  # fmt: skip
    let_next_start(DEPENDENT)
    if PRODUCT == "float16":
        total = unscaled(total, magnitudes, PARTIALS)
    place = (share * groups + group).to(tl.int64) * used_rows * column_count
    place += k.to(tl.int64)[:, None] * column_count + m[None, :]
    tl.store(partial + place, total, mask=used[:, None] & column_exists[None, :])


@triton.jit(
    do_not_specialize=["shares", "share_stride", "group_stride", "row_stride", "filter_count", "filter_blocks",
                       "elements", "residues", "residues_across", "down_stride", "across_stride", "filter_stride"]
)  # fmt: skip
def _add_shares(
    partial, rows, destinations, filters, shares, share_stride, group_stride, row_stride, filter_count, filter_blocks,
    elements, residues, residues_across, down_stride, across_stride, filter_stride,
    WIDE: tl.constexpr, FILTERS: tl.constexpr, TERMS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Add up, for filters m and an element e of each, ``partial[share, rows[e] + residue's rows, (residue, m)]``."""
    program = tl.program_id(0)
    m = (program % filter_blocks) * FILTERS + tl.arange(0, FILTERS)
    element = program // filter_blocks % elements
    group = (program // filter_blocks // elements).to(tl.int64)
    term = tl.arange(0, TERMS)
    residue = term % residues
    share = term // residues
    shares_of_block = TERMS // residues
    if WIDE:
        share_stride = tl.full((), share_stride, tl.int64)
    place = (residue // residues_across) * down_stride + (residue % residues_across) * across_stride
    place += residue * filter_count + share * share_stride
    place = partial + group * group_stride + tl.load(rows + element) * row_stride + (place[:, None] + m[None, :])
    destination = tl.load(destinations + element) + (group * filter_count + m) * filter_stride
    total = tl.zeros((TERMS, FILTERS), tl.float32)
    await_predecessor(DEPENDENT)
    for first in range(0, shares, shares_of_block):
        present = (share < shares_of_block) & (first + share < shares)
        total += tl.load(place, mask=present[:, None] & (m < filter_count)[None, :], other=0.0)
        place += shares_of_block * share_stride
    tl.store(filters + destination, tl.sum(total, axis=0).to(filters.dtype.element_ty), mask=m < filter_count)


@functools.cache  # without an end: captured graphs go on reading what is here
def destinations(plan: Gathering, flip: bool, strides: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Where each element (row, column, channel) of a filter lies within it."""
    taps = plan.rows.taps, plan.columns.taps
    i, j, c = np.meshgrid(*map(np.arange, (*taps, plan.source_channels)), indexing="ij")
    if flip:
        i, j = taps[0] - 1 - i, taps[1] - 1 - j
    channel_stride, row_stride, column_stride = strides
    return torch.from_numpy((c * channel_stride + i * row_stride + j * column_stride).ravel()).to(device)


@functools.cache  # without an end: captured graphs go on reading what is here
def rows_of_elements(plan: Gathering, device: torch.device) -> torch.Tensor:
    """Which row of the matrix each element (row, column, channel) of a filter has for a patch's first pixel."""
    lengths = plan.rows.taps, plan.columns.taps, plan.source_channels
    i, j, c = np.meshgrid(*map(np.arange, lengths), indexing="ij")
    down, across = _rows_between(plan, plan.rows.dilation, plan.columns.dilation)
    return torch.from_numpy((i * down + j * across + c).ravel()).to(device)


def _rows_between(plan: Gathering, down: int, across: int) -> tuple[int, int]:
    """How many rows of the matrix lie between elements of the source that are so far from each other."""
    columns = len(plan.columns.classes[0].places)
    return (
        down // plan.rows.place_step * columns * plan.padded_channels,
        across // plan.columns.place_step * plan.padded_channels,
    )


def add_shares(
    partial: torch.Tensor, shares: int, plan: Gathering, rows: torch.Tensor, filters: torch.Tensor, flip: bool
) -> None:
    """Add up partial gradients, (shares, groups, rows, columns), and write them as ``filters`` lie.

    ``rows`` tells the row of each element (row, column, channel) of a filter, for a patch's first pixel.
    """
    down, across = _rows_between(plan, -plan.rows.residue_factor, -plan.columns.residue_factor)
    group_stride = plan.class_rows()[0] * plan.outputs
    filter_blocks = triton.cdiv(plan.target_channels, SUM_FILTERS)
    terms = min(MOST_TERMS, triton.next_power_of_2(shares * plan.residues))
    terms = max(terms, triton.next_power_of_2(plan.residues))
    _add_shares[(filter_blocks * rows.numel() * plan.groups,)](
        partial, rows, destinations(plan, flip, filters.stride()[1:], filters.device), filters,
        shares, plan.groups * group_stride, group_stride, plan.outputs, plan.target_channels, filter_blocks,
        rows.numel(), plan.residues, plan.columns.patch, down * plan.outputs, across * plan.outputs, filters.stride(0),
        partial.numel() >= 2**31, SUM_FILTERS, terms, num_warps=8 if terms > 64 else 4,
        **launch_options(filters.device),
    )  # fmt: skip


def filter_grad(
    image_planes: torch.Tensor, map_planes: torch.Tensor, plan: Gathering, tables: Tables, filters: torch.Tensor,
    flip: bool, product: str, magnitudes: torch.Tensor | None, blocks: GradBlocks, units: tuple[int, int],
    prepared: bool, wide: bool,
) -> None:  # fmt: skip
    """Write the filter gradient, (filters, channels // groups, rows, columns), to ``filters``.

    Parameters
    ----------
    image_planes, map_planes : tensor, (planes, batch, channels, rows, columns)
        Two planes for bf16x3 where ``prepared``, else one.
    plan : Gathering
        That of the forward pass, patches joined, and regular.
    magnitudes : tensor or None
        Of `largest_magnitudes` of images and maps, for float16 alone.
    units : (int, int)
        Divide the strides of batch-last images and maps, whose batch may be read up to a multiple of the smaller.
    """
    assert plan.is_regular
    images, maps = image_planes[0], map_planes[0]
    unit, map_unit = units
    batch_unit = min(units)
    used_rows, column_count, filter_count = plan.class_rows()[0], plan.outputs, plan.target_channels
    positions = plan.rows.positions * plan.columns.positions
    batch_blocks = triton.cdiv(plan.batch, blocks.images)
    steps = batch_blocks * triton.cdiv(positions, blocks.pixels // blocks.images)
    steps_per_share = max(1, triton.cdiv(steps, blocks.shares))
    shares = max(1, triton.cdiv(steps, steps_per_share))
    row_blocks, column_blocks = triton.cdiv(used_rows, blocks.rows), triton.cdiv(column_count, blocks.filters)
    if filters.numel() == 0:
        return
    partial = torch.empty(shares * plan.groups * used_rows * column_count, dtype=torch.float32, device=images.device)
    sb, sc, sh, sw = images.stride()
    mb, mf, mh, mw = maps.stride()
    _filter_grad[(row_blocks * column_blocks * plan.groups * shares,)](
        images, maps, tables.gather, magnitudes, partial,
        -(-plan.batch // batch_unit), plan.rows.source_length, plan.columns.source_length,
        sb, sh // unit, sw // unit, plan.source_channels * sc // unit,
        mb, mf // map_unit, mh // map_unit, mw // map_unit, filter_count * mf // map_unit,
        image_planes.stride(0) // 16, map_planes.stride(0) // 16, tables.row_count, used_rows, filter_count,
        column_count, plan.rows.step, plan.columns.step, plan.rows.patch, plan.columns.patch,
        plan.rows.target_length, plan.columns.target_length, plan.rows.positions, plan.columns.positions,
        row_blocks, column_blocks, plan.groups, batch_blocks, steps, steps_per_share,
        product, plan.leaves_source, plan.leaves_target, unit, map_unit,
        batch_unit, prepared, wide, blocks.rows, blocks.filters, blocks.pixels,
        blocks.images, 0 if magnitudes is None else magnitudes.shape[1],
        chain_of(product, steps_per_share * blocks.pixels), num_warps=blocks.warps, num_stages=blocks.stages,
        **launch_options(images.device),
    )  # fmt: skip
    add_shares(partial, shares, plan, rows_of_elements(plan, images.device), filters, flip)
