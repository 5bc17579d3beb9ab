"""The kernel of the filter gradient of a pooled correlation: pooled gradients are spread where they are multiplied.

The loop nest, for each group, block of rows k of the matrix of filters and block of filters m, over a share of all
patches (see `spreading`) and images b::

    for each pixel of the patch:
        partial[share, k, m] += source[offset[k] + origin(pixel), b] * spread[m, pixel, b]

so that spread maps never reach memory.

Floors: images, pooled gradients and winners read once; two floating-point operations a multiply-add of
`correlate2d_filter_grad`, at the product's rate. Measured on an H100 before there was `pool_window_grad_kernel`,
which is faster, for cifar1_b1024, preparation counted: 193 us in float32 and 116 in bfloat16, where floors are 32 and
19 (17 and 16%), and 1.3 and 1.2 times as fast as by way of maps; held back by the comparisons of winners.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import await_only, launch_options, let_next_start
from pytensor_convnet.kernels.cuda.filter_grad_kernel import add_shares, program_place, rows_of_elements
from pytensor_convnet.kernels.cuda.formats import unit_of
from pytensor_convnet.kernels.cuda.gathering import Gathering, Tables
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.products import add_product, chain_of, power_of_two, scale_exponent, split, unscaled
from pytensor_convnet.kernels.cuda.spreading import spread_pixel, windows_of


@dataclass(frozen=True)
class PoolGradBlocks:
    """How the filter gradient of a pooled correlation is cut into programs.

    Attributes
    ----------
    rows, filters : int
        The tile of the gradient: rows of the matrix of filters, and its columns.
    images : int
        How many a step sums over, of one patch.
    shares : int
        Into how many programs the sum is split, at most.
    warps, stages : int
    """

    rows: int
    filters: int
    images: int
    shares: int
    warps: int
    stages: int


@triton.jit
def _add_patch(
    source, maps, winners, used, offset, down, across, filter_place, filter_exists, image, batch, patch, factor, part,
    source_rows, source_columns, source_row_stride, source_column_stride, source_plane_units, map_row_stride,
    map_column_stride, step_rows, step_columns, map_rows, map_columns, out_rows, out_columns, patch_columns,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRODUCT: tl.constexpr, PREPARED: tl.constexpr, LEAVES_SOURCE: tl.constexpr,
    UNIT: tl.constexpr, MAP_UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Add the products of a patch and a block of images to a partial sum."""
    patch_row = patch // patch_columns
    patch_column = patch % patch_columns
    if WIDE:
        patch_row = patch_row.to(tl.int64)
        patch_column = patch_column.to(tl.int64)
        source_plane_units = source_plane_units.to(tl.int64)
    values, numbers = windows_of(
        winners, maps, filter_place[:, None] * MAP_UNIT + image[None, :], image[None, :], batch,
        filter_exists[:, None], patch_row, patch_column, out_rows, out_columns, map_row_stride * MAP_UNIT,
        map_column_stride * MAP_UNIT,
        WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT,
    )  # fmt: skip
    for r in tl.static_range(STRIDE_ROWS):
        for q in tl.static_range(STRIDE_COLUMNS):
            spread = spread_pixel(
                values, numbers, r, q, WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT
            )
            row = patch_row * STRIDE_ROWS + r
            column = patch_column * STRIDE_COLUMNS + q
            inside = (row < map_rows) & (column < map_columns)
            source_row = row * step_rows
            source_column = column * step_columns
            origin = source_row * source_row_stride + source_column * source_column_stride
            valid = used
            if LEAVES_SOURCE:
                y = down + source_row
                x = across + source_column
                valid = valid & (y >= 0) & (y < source_rows) & (x >= 0) & (x < source_columns)
            mask = valid[:, None] & (image < tl.where(inside, batch, 0))[None, :]
            place = source + origin * UNIT + ((offset * UNIT)[:, None] + image[None, :])
            a = tl.load(place, mask=mask, other=0.0)
            if PRODUCT == "bf16x3":
                b, b_low = split(spread)
                if PREPARED:
                    a_low = tl.load(place + source_plane_units * 16, mask=mask, other=0.0)
                else:
                    a, a_low = split(a)
                part = add_product(a_low, tl.trans(b), part, PRODUCT)
                part = add_product(a, tl.trans(b_low), part, PRODUCT)
                part = add_product(a, tl.trans(b), part, PRODUCT)
            else:
                part = add_product(a, tl.trans((spread * factor).to(a.dtype)), part, PRODUCT)
    return part


@triton.jit(
    do_not_specialize=["batch_units", "source_rows", "source_columns", "source_row_stride", "source_column_stride",
                       "source_group_stride", "source_plane_units", "map_filter_stride", "map_row_stride",
                       "map_column_stride", "row_count", "used_rows", "filter_count", "step_rows", "step_columns",
                       "map_rows", "map_columns", "out_rows", "out_columns", "patch_columns", "row_blocks",
                       "filter_blocks", "groups", "patches", "steps", "steps_per_share"]
)  # fmt: skip
def _pooled_filter_grad(
    source, maps, winners, gather, magnitudes, partial, batch_units, source_rows, source_columns, source_row_stride,
    source_column_stride, source_group_stride, source_plane_units, map_filter_stride, map_row_stride,
    map_column_stride, row_count, used_rows, filter_count, step_rows, step_columns, map_rows, map_columns, out_rows,
    out_columns, patch_columns, row_blocks, filter_blocks, groups, patches, steps, steps_per_share,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRODUCT: tl.constexpr, PREPARED: tl.constexpr,
    LEAVES_SOURCE: tl.constexpr, UNIT: tl.constexpr, MAP_UNIT: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    FILTERS: tl.constexpr, IMAGES: tl.constexpr, PARTIALS: tl.constexpr, CHAIN: tl.constexpr, STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    row_block, filter_block, group, share = program_place(row_blocks, filter_blocks, groups)
    k = row_block * ROWS + tl.arange(0, ROWS)
    m = filter_block * FILTERS + tl.arange(0, FILTERS)
    used = k < used_rows
    offset = tl.load(gather + k, mask=used, other=0)
    down = tl.load(gather + row_count + k, mask=used, other=0)
    across = tl.load(gather + 2 * row_count + k, mask=used, other=0)
    filter_exists = m < filter_count
    filter_place = group * filter_count + m
    if WIDE:
        filter_place = filter_place.to(tl.int64) * map_filter_stride
    else:
        filter_place = filter_place * map_filter_stride
    source += group.to(tl.int64) * source_group_stride * UNIT
    await_only(DEPENDENT)
    factor = 1.0
    if PRODUCT == "float16":
        factor = power_of_two(scale_exponent(magnitudes + PARTIALS, PARTIALS))

    # Neighbouring patches share windows and source pixels, so patches are a step's faster index.
    batch = batch_units * MAP_UNIT
    total = tl.zeros((ROWS, FILTERS), tl.float32)
    first_step = share * steps_per_share
    last_step = tl.minimum(first_step + steps_per_share, steps)
    # Sums are long chains of additions, whose rounding adds up. Where that shows, they are made of shorter ones.
    if CHAIN:
        for chain in range(first_step, last_step, CHAIN):
            part = tl.zeros_like(total)
            for step in tl.range(chain, tl.minimum(chain + CHAIN, last_step), num_stages=STAGES):
                image = (step // patches) * IMAGES + tl.arange(0, IMAGES)
                part = _add_patch(
                    source, maps, winners, used, offset, down, across, filter_place, filter_exists, image, batch,
                    step % patches, factor, part, source_rows, source_columns, source_row_stride,
                    source_column_stride, source_plane_units, map_row_stride, map_column_stride, step_rows,
                    step_columns, map_rows, map_columns, out_rows, out_columns, patch_columns, WINDOW_ROWS,
                    WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, PRODUCT, PREPARED, LEAVES_SOURCE, UNIT,
                    MAP_UNIT, WIDE,
                )  # fmt: skip
            total += part
    else:
        for step in tl.range(first_step, last_step, num_stages=STAGES):
            image = (step // patches) * IMAGES + tl.arange(0, IMAGES)
            total = _add_patch(
                source, maps, winners, used, offset, down, across, filter_place, filter_exists, image, batch,
                step % patches, factor, total, source_rows, source_columns, source_row_stride,
                source_column_stride, source_plane_units, map_row_stride, map_column_stride, step_rows,
                step_columns, map_rows, map_columns, out_rows, out_columns, patch_columns, WINDOW_ROWS,
                WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, PRODUCT, PREPARED, LEAVES_SOURCE, UNIT,
                MAP_UNIT, WIDE,
            )  # fmt: skip
    let_next_start(DEPENDENT)
    if PRODUCT == "float16":
        total = unscaled(total, magnitudes, PARTIALS)
    place = (share * groups + group).to(tl.int64) * used_rows * filter_count
    place += k.to(tl.int64)[:, None] * filter_count + m[None, :]
    tl.store(partial + place, total, mask=used[:, None] & filter_exists[None, :])


def pooled_filter_grad(
    image_planes: torch.Tensor, winners: torch.Tensor, maps: torch.Tensor, plan: Gathering, tables: Tables,
    windows: Windows, filters: torch.Tensor, flip: bool, product: str, magnitudes: torch.Tensor | None,
    blocks: PoolGradBlocks, unit: int, prepared: bool, wide: bool,
) -> None:  # fmt: skip
    """Write the filter gradient, (filters, channels // groups, rows, columns), to ``filters``.

    Parameters
    ----------
    image_planes : tensor, (planes, batch, channels, rows, columns)
        With the batch innermost in memory; two planes for bf16x3 where ``prepared``, else one.
    winners, maps : tensor
        Of the pooled shape, both batch-last.
    plan : Gathering
        That of the forward pass, one output at a time.
    magnitudes : tensor or None
        Of `largest_magnitudes` of images and pooled maps, these times their `geometry.overlap`, for float16 alone.
    unit : int
        Divides the strides of the images.
    """
    images = image_planes[0]
    map_unit = unit_of(maps)
    used_rows, filter_count = plan.class_rows()[0], plan.target_channels
    patch_rows, patch_columns = (
        triton.cdiv(length, step) for length, step in zip((windows.rows, windows.columns), windows.stride)
    )
    patches = patch_rows * patch_columns
    steps = triton.cdiv(plan.batch, blocks.images) * patches
    steps_per_share = max(1, triton.cdiv(steps, blocks.shares))
    shares = max(1, triton.cdiv(steps, steps_per_share))
    row_blocks, filter_blocks = triton.cdiv(used_rows, blocks.rows), triton.cdiv(filter_count, blocks.filters)
    size = plan.groups * used_rows * filter_count
    if size == 0:
        return
    partial = torch.empty(shares * size, dtype=torch.float32, device=images.device)
    products_of_step = blocks.images * windows.stride[0] * windows.stride[1]
    chain = chain_of(product, steps_per_share * products_of_step)
    _, sc, sh, sw = images.stride()
    _, mf, mh, mw = maps.stride()
    _pooled_filter_grad[(row_blocks * filter_blocks * plan.groups * shares,)](
        images, maps, winners, tables.gather, magnitudes, partial,
        plan.batch // map_unit, plan.rows.source_length, plan.columns.source_length,
        sh // unit, sw // unit, plan.source_channels * sc // unit, image_planes.stride(0) // 16,
        mf // map_unit, mh // map_unit, mw // map_unit, tables.row_count, used_rows, filter_count,
        plan.rows.step, plan.columns.step, windows.rows, windows.columns, windows.out_rows, windows.out_columns,
        patch_columns, row_blocks, filter_blocks, plan.groups, patches, steps, steps_per_share,
        *windows.window, *windows.stride, windows.padding[0][0], windows.padding[1][0],
        product, prepared, plan.leaves_source, unit, map_unit, wide, blocks.rows, blocks.filters, blocks.images,
        0 if magnitudes is None else magnitudes.shape[1], max(1, chain // products_of_step) if chain else 0,
        blocks.stages, num_warps=blocks.warps, **launch_options(images.device),
    )  # fmt: skip
    add_shares(partial, shares, plan, rows_of_elements(plan, images.device), filters, flip)
