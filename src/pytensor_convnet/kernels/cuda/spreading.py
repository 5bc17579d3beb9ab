"""Pooled gradients spread over maps: by patches in registers, or written as the source of a product.

A *patch* is as many map pixels as windows move by, so that the windows which touch it, and which tap of each a pixel
is, are constants::

    spread[m, pixel, b] = sum over the windows that hold the pixel, of  maps[m, window, b]  where it won

The input gradient of a pooled correlation reads each map pixel for many patches of images, and would spread it as
often. So `spread` writes the maps once, scaled or split as the product takes them, half the bytes of float32. As
`copying` does, it scales by what was found in a sample of large tensors, notes the largest that it writes, and does it
once more where that was larger than the sample's bound.

Floor: pooled gradients and winners read once, maps in the product's dtype written once. Measured on an H100
(`docs/cuda-kernels.md`): 82 to 95% of it.
"""

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.copying import AGAIN_PROGRAMS, filled_up
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import is_wide, unit_of
from pytensor_convnet.kernels.cuda.magnitudes import exceeds_bound, finite_magnitudes, sampled_part
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.pool_tiles import no_tensors
from pytensor_convnet.kernels.cuda.products import DTYPES, power_of_two, scale_exponent, split

SPREAD_IMAGES, SPREAD_ELEMENTS = 128, 1024
"""The most images, and the elements, of a tile of patches that `spread` computes at once."""


@triton.jit
def windows_of(
    winners, maps, at, image, batch, exists, patch_row, patch_column, out_rows, out_columns, row_stride, column_stride,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
):  # fmt: skip
    """Gradients and winners of the windows that touch patches, row by row; ``at`` is where window (0, 0) lies."""
    values = no_tensors()
    numbers = no_tensors()
    for k in tl.static_range(-((WINDOW_ROWS - 1 - TOP) // STRIDE_ROWS), (STRIDE_ROWS - 1 + TOP) // STRIDE_ROWS + 1):
        for n in tl.static_range(
            -((WINDOW_COLUMNS - 1 - LEFT) // STRIDE_COLUMNS), (STRIDE_COLUMNS - 1 + LEFT) // STRIDE_COLUMNS + 1
        ):
            y = patch_row + k
            x = patch_column + n
            inside = (y >= 0) & (y < out_rows) & (x >= 0) & (x < out_columns)
            place = at + (y * row_stride + x * column_stride)
            mask = exists & (image < tl.where(inside, batch, 0))
            values = values + (tl.load(maps + place, mask=mask, other=0.0).to(tl.float32),)
            numbers = numbers + (tl.load(winners + place, mask=mask, other=0).to(tl.int32),)
    return values, numbers


@triton.jit
def _with_share(
    total, value, number, i: tl.constexpr, j: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr
):
    """A pixel's sum with what a window adds to it, where it is tap (i, j) of that and won."""
    if i >= 0 and i < WINDOW_ROWS and j >= 0 and j < WINDOW_COLUMNS:
        total += tl.where(number == i * WINDOW_COLUMNS + j, value, 0.0)
    return total


@triton.jit
def spread_pixel(
    values, numbers, r: tl.constexpr, q: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr,
    STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
):  # fmt: skip
    """What the windows of `windows_of` add to pixel (r, q) of their patches."""
    total = tl.zeros_like(values[0])
    FIRST_ROW: tl.constexpr = -((WINDOW_ROWS - 1 - TOP) // STRIDE_ROWS)
    FIRST_COLUMN: tl.constexpr = -((WINDOW_COLUMNS - 1 - LEFT) // STRIDE_COLUMNS)
    DOWN: tl.constexpr = (STRIDE_ROWS - 1 + TOP) // STRIDE_ROWS + 1 - FIRST_ROW
    ACROSS: tl.constexpr = (STRIDE_COLUMNS - 1 + LEFT) // STRIDE_COLUMNS + 1 - FIRST_COLUMN
    for k in tl.static_range(DOWN):
        for n in tl.static_range(ACROSS):
            total = _with_share(
                total, values[k * ACROSS + n], numbers[k * ACROSS + n], r + TOP - (k + FIRST_ROW) * STRIDE_ROWS,
                q + LEFT - (n + FIRST_COLUMN) * STRIDE_COLUMNS, WINDOW_ROWS, WINDOW_COLUMNS,
            )  # fmt: skip
    return total


LENGTHS = ["batch_units", "padded_units", "map_rows", "map_columns", "out_rows", "out_columns", "patch_rows",
           "patch_columns", "column_blocks", "batch_blocks", "plane_units"]  # fmt: skip
"""The integers of spreading, which no kernel is compiled for."""


@triton.jit
def _spread_tile(
    program, maps, winners, magnitudes, spread, batch_units, padded_units, map_rows, map_columns, out_rows, out_columns,
    patch_rows, patch_columns, column_blocks, batch_blocks, plane_units,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRODUCT: tl.constexpr, MAP_UNIT: tl.constexpr, WIDE: tl.constexpr,
    COLUMNS: tl.constexpr, IMAGES: tl.constexpr, PARTIALS: tl.constexpr, BOUNDS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Spread to the patches of a program.

    Of ``PARTIALS`` magnitudes the first ``BOUNDS`` tell the scale. In the others, if any, the largest sum is noted.
    """
    if PRODUCT == "float16" and BOUNDS < PARTIALS:
        note = magnitudes + BOUNDS + program % (PARTIALS - BOUNDS)
    image = (program % batch_blocks) * IMAGES + tl.arange(0, IMAGES)
    program = program // batch_blocks
    patch_column = (program % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_blocks
    patch_row = program % patch_rows
    channel = (program // patch_rows).to(tl.int64)
    batch = batch_units * MAP_UNIT
    padded_batch = padded_units * 16
    if WIDE:
        patch_row = patch_row.to(tl.int64)
        patch_column = patch_column.to(tl.int64)
        plane_units = plane_units.to(tl.int64)
    plane = channel * out_rows * out_columns * batch
    await_predecessor(DEPENDENT)
    values, numbers = windows_of(
        winners + plane, maps + plane, image[None, :], image[None, :], batch, (patch_column < patch_columns)[:, None],
        patch_row, patch_column[:, None], out_rows, out_columns, out_columns * batch, batch, WINDOW_ROWS,
        WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT,
    )  # fmt: skip
    spread += channel * map_rows * map_columns * padded_batch
    largest = tl.zeros((COLUMNS, IMAGES), tl.float32)
    for r in tl.static_range(STRIDE_ROWS):
        row = patch_row * STRIDE_ROWS + r
        for q in tl.static_range(STRIDE_COLUMNS):
            total = spread_pixel(
                values, numbers, r, q, WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT
            )
            column = patch_column * STRIDE_COLUMNS + q
            at = spread + ((row * map_columns + column) * padded_batch)[:, None] + image[None, :]
            mask = (column < tl.where(row < map_rows, map_columns, 0))[:, None] & (image < padded_batch)[None, :]
            if PRODUCT == "float16":
                if BOUNDS < PARTIALS:
                    largest = tl.maximum(largest, finite_magnitudes(total))
                total = total * power_of_two(scale_exponent(magnitudes, BOUNDS))
            if PRODUCT == "bf16x3":
                high, low = split(total)
                tl.store(at, high, mask=mask)
                tl.store(at + plane_units * 16, low, mask=mask)
            else:
                tl.store(at, total.to(spread.dtype.element_ty), mask=mask)
    if PRODUCT == "float16" and BOUNDS < PARTIALS:
        tl.atomic_max(note, tl.max(tl.max(largest, axis=1), axis=0), sem="relaxed")


@triton.jit(do_not_specialize=LENGTHS)
def _spread(
    maps, winners, magnitudes, spread, batch_units, padded_units, map_rows, map_columns, out_rows, out_columns,
    patch_rows, patch_columns, column_blocks, batch_blocks, plane_units,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, PRODUCT: tl.constexpr, MAP_UNIT: tl.constexpr, WIDE: tl.constexpr,
    COLUMNS: tl.constexpr, IMAGES: tl.constexpr, PARTIALS: tl.constexpr, BOUNDS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    _spread_tile(
        tl.program_id(0), maps, winners, magnitudes, spread, batch_units, padded_units, map_rows, map_columns, out_rows,
        out_columns, patch_rows, patch_columns, column_blocks, batch_blocks, plane_units, WINDOW_ROWS, WINDOW_COLUMNS,
        STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, PRODUCT, MAP_UNIT, WIDE, COLUMNS, IMAGES, PARTIALS, BOUNDS, DEPENDENT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["programs", *LENGTHS])
def _spread_again(
    programs, maps, winners, magnitudes, spread, batch_units, padded_units, map_rows, map_columns, out_rows,
    out_columns, patch_rows, patch_columns, column_blocks, batch_blocks, plane_units,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, MAP_UNIT: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr,
    IMAGES: tl.constexpr, PARTIALS: tl.constexpr, BOUNDS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    await_predecessor(DEPENDENT)
    if exceeds_bound(magnitudes, PARTIALS, BOUNDS):
        for program in range(tl.program_id(0), programs, tl.num_programs(0)):
            _spread_tile(
                program, maps, winners, magnitudes, spread, batch_units, padded_units, map_rows, map_columns, out_rows,
                out_columns, patch_rows, patch_columns, column_blocks, batch_blocks, plane_units, WINDOW_ROWS,
                WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, "float16", MAP_UNIT, WIDE, COLUMNS, IMAGES,
                PARTIALS, PARTIALS, DEPENDENT,
            )  # fmt: skip


def spread(
    winners: torch.Tensor, maps: torch.Tensor, windows: Windows, product: str, magnitudes: torch.Tensor | None
) -> torch.Tensor:
    """Pooled gradients at the map pixels that won, as the source of a product: see `copying.prepare`.

    Parameters
    ----------
    winners, maps : tensor
        Of the pooled shape, both batch-last.
    magnitudes : tensor or None
        The row of `largest_magnitudes` that is the maps', times their `geometry.overlap`, for float16 alone; of a
        sample, where tensors are large.

    Returns
    -------
    tensor, (planes, batch, filters, rows, columns)
    """
    batch, channels = maps.shape[:2]
    map_unit = unit_of(maps)
    padded = filled_up(batch)
    planes = 2 if product == "bf16x3" else 1
    dtype = DTYPES.get(product, maps.dtype)
    memory = torch.empty((planes, channels, windows.rows, windows.columns, padded), dtype=dtype, device=maps.device)
    patch_rows, patch_columns = (
        triton.cdiv(length, step) for length, step in zip((windows.rows, windows.columns), windows.stride)
    )
    images = min(SPREAD_IMAGES, triton.next_power_of_2(padded))
    columns = min(SPREAD_ELEMENTS // images, triton.next_power_of_2(patch_columns))
    column_blocks, batch_blocks = triton.cdiv(patch_columns, columns), triton.cdiv(padded, images)
    programs = channels * patch_rows * column_blocks * batch_blocks
    if programs:
        arguments = (
            maps, winners, magnitudes, memory, batch // map_unit, padded // 16, windows.rows, windows.columns,
            windows.out_rows, windows.out_columns, patch_rows, patch_columns, column_blocks, batch_blocks,
            memory.stride(0) // 16, *windows.window, *windows.stride, windows.padding[0][0], windows.padding[1][0],
        )  # fmt: skip
        partials, bounds = 0 if magnitudes is None else magnitudes.numel(), sampled_part(magnitudes)
        settings = map_unit, is_wide(maps, memory), columns, images, partials, bounds
        options = {"num_warps": 4, **launch_options(maps.device)}
        _spread[(programs,)](*arguments, product, *settings, **options)
        if bounds < partials:
            _spread_again[(min(programs, AGAIN_PROGRAMS),)](programs, *arguments, *settings, **options)
    return memory.permute(0, 4, 1, 2, 3)[:, :batch]
