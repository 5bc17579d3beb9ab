"""The kernel of the filter gradient: a product of matrices that sums over positions and images.

The loop nest, for each group, each block of rows k of the matrix of filters (see `gathering`) and each block of filters
m, over a share of all positions and images (p, b)::

    partial[share, k, m] += source[offset[k] + position[p], b] * maps[m, p, b]

With the batch innermost both operands are read in coalesced runs of images, and already lie as tensor cores want them:
the summed axis is innermost in both. Shares are added up by a second kernel in a fixed order, so results are the same
in every run.

Floors: images and maps moved once; two floating-point operations a multiply-add, at the product's rate. Measured on an
H100 (`docs/cuda-kernels.md`): 40 to 75% of the floor on large layers.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.gathering import Gathering, Tables
from pytensor_convnet.kernels.cuda.products import add_product, chain_of, power_of_two, scale_exponent, split

SUM_ELEMENTS, SUM_SHARES = 32, 64
"""The tile of the kernel that adds shares up."""


@dataclass(frozen=True)
class GradBlocks:
    """How a filter gradient is cut into programs.

    Attributes
    ----------
    rows : int
        Rows of a tile: rows of the matrix of filters, that is taps and channels.
    filters : int
        Columns of a tile.
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
def _add_pixels(
    source, maps, used, offset, y, x, filter_offset, filter_exists, pixel, batch, step, part,
    source_rows, source_columns, source_batch_stride, source_row_stride, source_column_stride,
    map_batch_stride, map_row_stride, map_column_stride, source_plane_units, map_plane_units,
    step_rows, step_columns, position_rows, position_columns, batch_blocks,
    PRODUCT: tl.constexpr, LEAVES_SOURCE: tl.constexpr, UNIT: tl.constexpr, MAP_UNIT: tl.constexpr,
    PREPARED: tl.constexpr, WIDE: tl.constexpr, POSITIONS: tl.constexpr, IMAGES: tl.constexpr,
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
    if WIDE:
        source_origin = source_row.to(tl.int64) * source_row_stride
        source_origin += source_column.to(tl.int64) * source_column_stride
        map_origin = row.to(tl.int64) * map_row_stride + column.to(tl.int64) * map_column_stride
        image = image.to(tl.int64)
    else:
        source_origin = source_row * source_row_stride + source_column * source_column_stride
        map_origin = row * map_row_stride + column * map_column_stride
    if LEAVES_SOURCE:
        if POSITIONS == 1:
            down = source_row + y
            across = source_column + x
            valid = used & (down >= 0) & (down < source_rows) & (across >= 0) & (across < source_columns)
            mask = valid[:, None] & present[None, :]
        else:
            down = y[:, None] + source_row[None, :]
            across = x[:, None] + source_column[None, :]
            mask = (down >= 0) & (down < source_rows) & (across >= 0) & (across < source_columns)
            mask = mask & used[:, None] & present[None, :]
    else:
        mask = used[:, None] & present[None, :]
    place = source_origin * UNIT + image * source_batch_stride
    place_of_a = source + ((offset * UNIT)[:, None] + place[None, :])
    a = tl.load(place_of_a, mask=mask, other=0.0)
    place = map_origin * MAP_UNIT + image * map_batch_stride
    place_of_b = maps + ((filter_offset * MAP_UNIT)[:, None] + place[None, :])
    map_mask = filter_exists[:, None] & present[None, :]
    b = tl.load(place_of_b, mask=map_mask, other=0.0)
    if PRODUCT == "bf16x3":
        if PREPARED:
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
                       "used_rows", "filter_count", "step_rows", "step_columns",
                       "position_rows", "position_columns", "row_blocks", "filter_blocks", "groups", "batch_blocks",
                       "steps", "steps_per_share"]
)  # fmt: skip
def _filter_grad(
    source, maps, gather, magnitudes, partial, batch_units, source_rows, source_columns, source_batch_stride,
    source_row_stride, source_column_stride, source_group_stride, map_batch_stride, map_filter_stride, map_row_stride,
    map_column_stride, map_group_stride, source_plane_units, map_plane_units, row_count, used_rows, filter_count,
    step_rows, step_columns, position_rows, position_columns, row_blocks, filter_blocks, groups, batch_blocks, steps,
    steps_per_share, PRODUCT: tl.constexpr, LEAVES_SOURCE: tl.constexpr, UNIT: tl.constexpr, MAP_UNIT: tl.constexpr,
    BATCH_UNIT: tl.constexpr, PREPARED: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, FILTERS: tl.constexpr,
    PIXELS: tl.constexpr, IMAGES: tl.constexpr, PARTIALS: tl.constexpr, CHAIN: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row_block = program % row_blocks
    program = program // row_blocks
    filter_block = program % filter_blocks
    program = program // filter_blocks
    group = program % groups
    share = program // groups

    k = row_block * ROWS + tl.arange(0, ROWS)
    m = filter_block * FILTERS + tl.arange(0, FILTERS)
    used = k < used_rows
    offset = tl.load(gather + k, mask=used, other=0)
    y = tl.load(gather + row_count + k, mask=used, other=0)
    x = tl.load(gather + 2 * row_count + k, mask=used, other=0)
    filter_offset = m * map_filter_stride
    if WIDE:
        filter_offset = m.to(tl.int64) * map_filter_stride
    filter_exists = m < filter_count
    source += group.to(tl.int64) * source_group_stride * UNIT
    maps += group.to(tl.int64) * map_group_stride * MAP_UNIT

    POSITIONS: tl.constexpr = PIXELS // IMAGES
    pixel = tl.arange(0, PIXELS)
    batch = batch_units * BATCH_UNIT
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    first_step = share * steps_per_share
    last_step = tl.minimum(first_step + steps_per_share, steps)
    # Sums are long chains of additions, whose rounding adds up. Where that shows, they are made of shorter ones.
    if CHAIN:
        for chain in range(first_step, last_step, CHAIN // PIXELS):
            part = tl.zeros_like(total)
            for step in range(chain, tl.minimum(chain + CHAIN // PIXELS, last_step)):
                part = _add_pixels(
                    source, maps, used, offset, y, x, filter_offset, filter_exists, pixel, batch, step, part,
                    source_rows, source_columns, source_batch_stride, source_row_stride, source_column_stride,
                    map_batch_stride, map_row_stride, map_column_stride, source_plane_units, map_plane_units,
                    step_rows, step_columns, position_rows, position_columns, batch_blocks,
                    PRODUCT, LEAVES_SOURCE, UNIT, MAP_UNIT, PREPARED, WIDE, POSITIONS, IMAGES,
                )  # fmt: skip
            total += part
    else:
        for step in range(first_step, last_step):
            total = _add_pixels(
                source, maps, used, offset, y, x, filter_offset, filter_exists, pixel, batch, step, total,
                source_rows, source_columns, source_batch_stride, source_row_stride, source_column_stride,
                map_batch_stride, map_row_stride, map_column_stride, source_plane_units, map_plane_units,
                step_rows, step_columns, position_rows, position_columns, batch_blocks,
                PRODUCT, LEAVES_SOURCE, UNIT, MAP_UNIT, PREPARED, WIDE, POSITIONS, IMAGES,
            )  # fmt: skip
    if PRODUCT == "float16":
        total = total * power_of_two(-scale_exponent(magnitudes, PARTIALS))
        total = total * power_of_two(-scale_exponent(magnitudes + PARTIALS, PARTIALS))
    place = (share * groups + group).to(tl.int64) * used_rows * filter_count
    place += k.to(tl.int64)[:, None] * filter_count + m[None, :]
    tl.store(partial + place, total, mask=used[:, None] & filter_exists[None, :])


@triton.jit(do_not_specialize=["shares", "size", "filter_count", "used_rows", "filter_stride"])
def _add_shares(
    partial, destinations, filters, shares, size, filter_count, used_rows, filter_stride,
    ELEMENTS: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    element = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    share = tl.arange(0, SHARES)
    inside = element < size
    total = tl.zeros((SHARES, ELEMENTS), tl.float32)
    for first in range(0, shares, SHARES):
        place = (first + share).to(tl.int64)[:, None] * size + element[None, :]
        total += tl.load(partial + place, mask=(first + share < shares)[:, None] & inside[None, :], other=0.0)
    group = element // (used_rows * filter_count)
    k = element // filter_count % used_rows
    m = group * filter_count + element % filter_count
    place = tl.load(destinations + k, mask=inside, other=0) + m.to(tl.int64) * filter_stride
    tl.store(filters + place, tl.sum(total, axis=0).to(filters.dtype.element_ty), mask=inside)


@functools.lru_cache(maxsize=256)
def destinations(plan: Gathering, flip: bool, strides: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """For each row of the matrix where it lies within a filter; rows are in the order (row, column, channel)."""
    taps = plan.rows.taps, plan.columns.taps
    i, j, c = np.meshgrid(*map(np.arange, (*taps, plan.source_channels)), indexing="ij")
    if flip:
        i, j = taps[0] - 1 - i, taps[1] - 1 - j
    channel_stride, row_stride, column_stride = strides
    return torch.from_numpy((c * channel_stride + i * row_stride + j * column_stride).ravel()).to(device)


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
        That of the forward pass, one output at a time.
    magnitudes : tensor or None
        Of `largest_magnitudes` of images and maps, for float16 alone.
    units : (int, int)
        Divide the strides of batch-last images and maps, whose batch may be read up to a multiple of the smaller.
    """
    images, maps = image_planes[0], map_planes[0]
    unit, map_unit = units
    batch_unit = min(units)
    used_rows, filter_count = plan.class_rows()[0], plan.target_channels
    positions = plan.rows.positions * plan.columns.positions
    batch_blocks = triton.cdiv(plan.batch, blocks.images)
    steps = batch_blocks * triton.cdiv(positions, blocks.pixels // blocks.images)
    steps_per_share = max(1, triton.cdiv(steps, blocks.shares))
    shares = max(1, triton.cdiv(steps, steps_per_share))
    row_blocks, filter_blocks = triton.cdiv(used_rows, blocks.rows), triton.cdiv(filter_count, blocks.filters)
    size = plan.groups * used_rows * filter_count
    if size == 0:
        return
    partial = torch.empty(shares * size, dtype=torch.float32, device=images.device)
    sb, sc, sh, sw = images.stride()
    mb, mf, mh, mw = maps.stride()
    _filter_grad[(row_blocks * filter_blocks * plan.groups * shares,)](
        images, maps, tables.gather, magnitudes, partial,
        -(-plan.batch // batch_unit), plan.rows.source_length, plan.columns.source_length,
        sb, sh // unit, sw // unit, plan.source_channels * sc // unit,
        mb, mf // map_unit, mh // map_unit, mw // map_unit, filter_count * mf // map_unit,
        image_planes.stride(0) // 16, map_planes.stride(0) // 16, tables.row_count, used_rows, filter_count,
        plan.rows.step, plan.columns.step, plan.rows.positions, plan.columns.positions,
        row_blocks, filter_blocks, plan.groups, batch_blocks, steps, steps_per_share,
        product, plan.leaves_source, unit, map_unit,
        batch_unit, prepared, wide, blocks.rows, blocks.filters, blocks.pixels,
        blocks.images, 0 if magnitudes is None else magnitudes.shape[1],
        chain_of(product, steps_per_share * blocks.pixels), num_warps=blocks.warps, num_stages=blocks.stages,
    )  # fmt: skip
    add_shares(partial, shares, plan, filters, flip)


def add_shares(partial: torch.Tensor, shares: int, plan: Gathering, filters: torch.Tensor, flip: bool) -> None:
    """Add up partial gradients, (shares, groups, rows of the matrix, filters), and write them as ``filters`` lie."""
    used_rows, filter_count = plan.class_rows()[0], plan.target_channels
    size = plan.groups * used_rows * filter_count
    _add_shares[(triton.cdiv(size, SUM_ELEMENTS),)](
        partial, destinations(plan, flip, filters.stride()[1:], filters.device), filters,
        shares, size, filter_count, used_rows, filters.stride(0),
        SUM_ELEMENTS, SUM_SHARES, num_warps=4,
    )  # fmt: skip
