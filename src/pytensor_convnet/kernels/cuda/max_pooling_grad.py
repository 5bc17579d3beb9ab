"""The gradient of max pooling on the GPU, and that one's gradient. Both follow the winners and read no image.

    images[b, c, row, column] = sum over the windows y, x that hold the pixel, of  maps[b, c, y, x]  where it won
    maps[b, c, y, x] = images[b, c, row, column]  at the pixel that won window y, x

The first is a scatter, but computed as a gather: a pixel adds up the windows that hold it, always in the same order,
so that results are the same from run to run and nothing waits for an atomic addition. A program computes *patches* of
pixels, as many along each axis as windows move at a time or a multiple: then the windows that touch a patch, and which
tap of each a pixel is, are constants of the kernel, and a window is read once for all its pixels in the patch.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from pytensor_convnet.geometry import format_shape
from pytensor_convnet.kernels.cuda.checks import check_tensor, count
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import empty, is_wide, to_format
from pytensor_convnet.kernels.cuda.max_pooling import WINNERS
from pytensor_convnet.kernels.cuda.pool_plans import (
    FLOATS,
    Patch,
    Planes,
    Tile,
    Windows,
    check_operand,
    check_pooled,
    grid,
    on_its_device,
    patch_for,
    tile_for,
)
from pytensor_convnet.kernels.cuda.pool_rows_kernel import goes_by_rows, pool_rows_grad, rows_grad_plan
from pytensor_convnet.kernels.cuda.pool_tiles import (
    LENGTHS,
    both,
    no_tensors,
    store_patch,
    tile_place,
    vectors_at,
    working,
)


@triton.jit
def _with_share(
    sums, winner, value, pixel: tl.constexpr, i: tl.constexpr, j: tl.constexpr, WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums with what a window adds to a pixel, which is tap i, j of it, if it is one at all."""
    if i >= 0 and i < WINDOW_ROWS and j >= 0 and j < WINDOW_COLUMNS:
        total = tl.where(winner == i * WINDOW_COLUMNS + j, sums[pixel] + value, sums[pixel])
        sums = sums[:pixel] + (total,) + sums[pixel + 1 :]
    return sums


@triton.jit(do_not_specialize_on_alignment=LENGTHS)
def _max_pool_grad(
    winners, maps, images, strips, strips_each, cells, units, rows, columns, out_rows, out_columns,
    COLUMN_GROUP: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr,
    STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr, PAIRED: tl.constexpr, VECTOR: tl.constexpr, TILE_STRIPS: tl.constexpr,
    TILE_CELLS: tl.constexpr, WIDE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every patch, for each window that touches it, for each pixel of both: add the window's value if it won."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, patch_row = strip // strips_each, strip % strips_each
    patch_column, unit = cell // units, cell % units
    zero = working(tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), maps.dtype.element_ty))
    sums = no_tensors()
    for _ in tl.static_range(PATCH_ROWS * PATCH_COLUMNS):
        sums = sums + (zero,)
    # Windows k, m are numbered from the one that starts where the patch does, if nothing is padded.
    first_y, first_x = patch_row * (PATCH_ROWS // STRIDE_ROWS), patch_column * (PATCH_COLUMNS // STRIDE_COLUMNS)
    at = vectors_at((plane * out_rows + first_y) * out_columns * units, first_x * units + unit, VECTOR)
    winners, maps = winners + at, maps + at
    for k in tl.static_range(-((WINDOW_ROWS - 1 - TOP) // STRIDE_ROWS), (PATCH_ROWS - 1 + TOP) // STRIDE_ROWS + 1):
        y_inside = (strip < strips) & (first_y + k >= 0) & (first_y + k < out_rows)
        line = k * out_columns * units * VECTOR
        winners_line, maps_line = winners + line, maps + line
        for m in tl.static_range(
            -((WINDOW_COLUMNS - 1 - LEFT) // STRIDE_COLUMNS), (PATCH_COLUMNS - 1 + LEFT) // STRIDE_COLUMNS + 1
        ):
            inside = both(y_inside, (cell < cells) & (first_x + m >= 0) & (first_x + m < out_columns))
            value = working(tl.load(maps_line + m * units * VECTOR, mask=inside, other=0))
            winner = tl.load(winners_line + m * units * VECTOR, mask=inside, other=0)
            for r in tl.static_range(PATCH_ROWS):
                for q in tl.static_range(PATCH_COLUMNS):
                    sums = _with_share(
                        sums, winner, value, r * PATCH_COLUMNS + q, r + TOP - k * STRIDE_ROWS,
                        q + LEFT - m * STRIDE_COLUMNS, WINDOW_ROWS, WINDOW_COLUMNS,
                    )  # fmt: skip
    store_patch(
        sums, images, plane, strip < strips, patch_row, cell, cells, units, rows, columns, PATCH_ROWS,
        PATCH_COLUMNS, PAIRED, VECTOR,
    )  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=LENGTHS)
def _max_pool_grad_of_many_taps(
    winners, maps, images, strips, cells, units, rows, columns, out_rows, out_columns, COLUMN_GROUP: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, VECTOR: tl.constexpr, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr,
    WIDE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every pixel, for each window that may hold it: add its value if the pixel won. A strip is one row."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, row = strip // rows, strip % rows + TOP
    column, unit = cell // units + LEFT, cell % units
    zero = working(tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), maps.dtype.element_ty))
    total = zero
    for k in range((WINDOW_ROWS - 1) // STRIDE_ROWS + 1):
        y = row // STRIDE_ROWS - k
        i = row - y * STRIDE_ROWS
        y_inside = (strip < strips) & (y >= 0) & (y < out_rows) & (i < WINDOW_ROWS)
        for m in range((WINDOW_COLUMNS - 1) // STRIDE_COLUMNS + 1):
            x = column // STRIDE_COLUMNS - m
            j = column - x * STRIDE_COLUMNS
            inside = both(y_inside, (cell < cells) & (x >= 0) & (x < out_columns) & (j < WINDOW_COLUMNS))
            at = vectors_at((plane * out_rows + y) * out_columns * units, x * units + unit, VECTOR)
            value = working(tl.load(maps + at, mask=inside, other=0))
            winner = tl.load(winners + at, mask=inside, other=0)
            tap = (i[:, None] * WINDOW_COLUMNS + j[None, :])[:, :, None]
            total += tl.where(winner == tap, value, zero)
    at = vectors_at(strip * columns * units, cell, VECTOR)
    tl.store(images + at, total.to(images.dtype.element_ty), mask=both(strip < strips, cell < cells))


@triton.jit(do_not_specialize_on_alignment=LENGTHS)
def _max_pool_gather(
    images, winners, maps, strips, cells, units, rows, columns, out_rows, out_columns, COLUMN_GROUP: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, VECTOR: tl.constexpr, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr,
    WIDE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every window: the pixel that won. A strip is one row of windows."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, y = strip // out_rows, strip % out_rows
    x, unit = cell // units, cell % units
    inside = both(strip < strips, cell < cells)
    at = vectors_at(strip * out_columns * units, cell, VECTOR)
    winner = tl.load(winners + at, mask=inside, other=0)
    if winner.dtype == tl.uint8:
        winner = winner.to(tl.int32)
    row = (y * STRIDE_ROWS - TOP)[:, None, None] + winner // WINDOW_COLUMNS
    column = (x * STRIDE_COLUMNS - LEFT)[None, :, None] + winner % WINDOW_COLUMNS
    is_tap = (winner >= 0) & (winner < WINDOW_ROWS * WINDOW_COLUMNS)
    is_tap &= (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    number = unit[None, :, None] * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    pixel = ((plane * rows)[:, None, None] + row) * columns + column
    value = tl.load(images + pixel * (units * VECTOR) + number, mask=inside & is_tap, other=float("nan"))
    tl.store(maps + at, value, mask=inside)


@on_its_device
def max_pool2d_grad(
    winners: torch.Tensor,
    maps: torch.Tensor,
    rows: int,
    columns: int,
    window: Any,
    stride: Any,
    padding: Any,
    memory_format: str | None = None,
) -> torch.Tensor:
    """The gradient of `max_pool2d` for its images of ``rows`` x ``columns``, given that of its maxima.

    Floor: maps and winners read once, images written once. Measured on an H100, float32: 1.05 to 1.08 times the floor
    in batch-last and channels-last; in bc01 1.04 to 1.19, and 1.36 for p31. bfloat16: 1.05 to 1.07, in bc01 to 1.33,
    and 1.37 to 1.40 for p31.

    Parameters
    ----------
    winners : tensor
        As `max_pool2d` gave them for the same windows. What is no tap of a window wins nothing.
    maps : tensor of floats
        Of the same shape.
    rows, columns : int
        Of the images.
    window, stride : pair of int
    padding : ((top, bottom), (left, right))
    memory_format : str, optional
        The format of the result; by default that of ``maps``.

    Returns
    -------
    tensor, (batch, channels, rows, columns)

    Raises
    ------
    ValueError
        Such maps do not come from such images, or winners are no winners of theirs.
    """
    format = check_operand(FLOATS, memory_format, maps=maps)
    check_winners(winners, maps, "maps")
    shape = (*maps.shape[:2], count(rows, "rows"), count(columns, "columns"))
    windows = check_pooled(shape, maps.shape, window, stride, padding)
    images = empty(shape, format, maps.dtype, maps.device)
    launch_grad(to_format(winners, format), to_format(maps, format), images, windows, format)
    return images


@on_its_device
def max_pool2d_gather(
    images: torch.Tensor,
    winners: torch.Tensor,
    window: Any,
    stride: Any,
    padding: Any,
    memory_format: str | None = None,
) -> torch.Tensor:
    """Images at the pixels that won: the gradient of `max_pool2d_grad`.

    Floor: winners read once, a pixel of the images for each, and maps written once. Not measured by itself: only second
    derivatives call it.

    Parameters
    ----------
    images : tensor of floats, (batch, channels, rows, columns)
        In any format.
    winners, window, stride, padding
        As for `max_pool2d_grad`. A winner that is no pixel of the image gives NaN, and nothing is read for it.
    memory_format : str, optional
        The format of the result; by default that of ``images``.

    Returns
    -------
    tensor
        Of the shape of ``winners`` and the dtype of ``images``.

    Raises
    ------
    ValueError
        Such winners do not come from such images.
    """
    format = check_operand(FLOATS, memory_format, images=images)
    check_winners(winners, images, "images")
    windows = check_pooled(images.shape, winners.shape, window, stride, padding)
    maps = empty(winners.shape, format, images.dtype, images.device)
    if maps.numel():
        images, winners = to_format(images, format), to_format(winners, format)
        planes = Planes.of(images.shape, format)
        vector = planes.vector(images.element_size())
        units = planes.inner // vector
        strips, cells = planes.number * windows.out_rows, windows.out_columns * units
        tile = tile_for(strips, cells, 1, vector)
        _max_pool_gather[grid(tile, strips, cells)](
            images, winners, maps, strips, cells, units, *windows.lengths(), **windows.constants(), VECTOR=vector,
            WIDE=is_wide(images, maps), **tile.constants(), **launch_options(images.device),
        )  # fmt: skip
    return maps


def check_winners(winners: torch.Tensor, others: torch.Tensor, name: str) -> None:
    """Raise ValueError unless these may be the winners of maps, or of images."""
    check_tensor(winners, "winners")
    if winners.dtype not in WINNERS:
        raise ValueError(f"winners must be uint8, int32 or int64, got {str(winners.dtype).removeprefix('torch.')}")
    if winners.device != others.device:
        raise ValueError(f"winners are on {winners.device} but {name} on {others.device}: they must be together")
    if winners.ndim != 4 or (name == "maps" and winners.shape != others.shape):
        raise ValueError(
            f"winners are {format_shape(winners.shape)} but {name} are {format_shape(others.shape)}: each window has "
            "one winner, so winners must have the pooled shape (batch x channels x rows x columns)."
        )


def launch_grad(
    winners, maps, images, windows: Windows, format: str, patch: Patch | None = None, tile: Tile | None = None
) -> None:
    """Run the kernel of the gradient on tensors of one format."""
    if not images.numel():
        return
    planes = Planes.of(images.shape, format)
    if patch is tile is None and goes_by_rows(images, winners, format, windows):
        plan = rows_grad_plan(planes.number, windows)
        if plan is not None:
            return pool_rows_grad(winners, maps, images, plan)
    vector = planes.vector(images.element_size())
    units = planes.inner // vector
    constants = dict(**windows.constants(), VECTOR=vector, WIDE=is_wide(images, maps), **launch_options(images.device))
    patch = patch or patch_for(planes, windows, vector)
    if patch is None:
        strips, cells = planes.number * windows.rows, windows.columns * units
        tile = tile_for(strips, cells, 1, vector)
        _max_pool_grad_of_many_taps[grid(tile, strips, cells)](
            winners, maps, images, strips, cells, units, *windows.lengths(), **constants, **tile.constants()
        )
        return
    strips, cells = patch.counts(planes, windows, vector)
    tile = tile or tile_for(strips, cells, patch.rows, vector)
    _max_pool_grad[grid(tile, strips, cells)](
        winners, maps, images, strips, strips // planes.number, cells, units, *windows.lengths(), **constants,
        **tile.constants(), PATCH_ROWS=patch.rows, PATCH_COLUMNS=patch.columns, PAIRED=patch.is_paired(planes.inner),
    )  # fmt: skip
