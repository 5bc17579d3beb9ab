"""Average and sum pooling on the GPU.

    maps[b, c, y, x] = sum over i, j of  images[b, c, y * stride + i - top, x * stride + j - left]  / share[y, x]

where the share is 1, or how many pixels the window has: inside the image ('average_exc_pad'), or in the padded image
('average_inc_pad'). The gradient is the same gather as that of max pooling, in `max_pooling_grad`, without winners.

Sums are float32 for narrower floats. Rows of taps are summed first, so that windows share what they share.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.checks import count
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import empty, is_wide, to_format
from pytensor_convnet.kernels.cuda.pool_plans import (
    FLOATS,
    Patch,
    Planes,
    Tile,
    Windows,
    check_operand,
    check_pool,
    check_pooled,
    grid,
    is_written_out,
    on_its_device,
    patch_for,
    strip_tile,
    tile_for,
)
from pytensor_convnet.kernels.cuda.pool_tiles import (
    LENGTHS,
    both,
    first_pixels,
    load_tap,
    no_tensors,
    store_patch,
    tile_place,
    vectors_at,
    window_share,
    working,
)

MODES = {"sum": 0, "average_inc_pad": 1, "average_exc_pad": 2}
"""How the kernels are told what a sum is divided by."""


@triton.jit
def bias_of_plane(biases, plane, channels):
    """The bias of each strip's plane, (strips, 1, 1), where planes are those of channels."""
    return working(tl.load(biases + plane % channels))[:, None, None]


@triton.jit(do_not_specialize=["channels"], do_not_specialize_on_alignment=LENGTHS)
def _average_pool(
    images, biases, maps, channels, strips, strips_each, cells, units, rows, columns, out_rows, out_columns,
    COLUMN_GROUP: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr,
    STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, BELOW: tl.constexpr, BESIDE: tl.constexpr,
    RECTIFIED: tl.constexpr, PAIRED: tl.constexpr, MODE: tl.constexpr, VECTOR: tl.constexpr, STRIP: tl.constexpr,
    TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every strip: for each row of the image the sum of each window's taps in it; then those of its rows.

    If RECTIFIED, a tap is ``max(pixel + bias, 0)``; what lies outside the image is so far below that it stays 0.
    """
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, y = strip // strips_each, (strip % strips_each) * STRIP
    first_row = y * STRIDE_ROWS - TOP
    line = (plane * rows + first_row) * columns * units
    first = first_pixels(images, line, cell, units, STRIDE_COLUMNS, LEFT, PAIRED, VECTOR)
    if RECTIFIED:
        bias = bias_of_plane(biases, plane, channels)
    sums = no_tensors()
    for i in tl.static_range((STRIP - 1) * STRIDE_ROWS + WINDOW_ROWS):
        row = first_row + i
        row_inside = (strip < strips) & (row >= 0) & (row < rows)
        at = first + i * columns * units * VECTOR
        total = working(tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), images.dtype.element_ty))
        for j in tl.static_range(WINDOW_COLUMNS):
            tap = working(load_tap(
                at, row_inside, cell, cells, columns, units, -float("inf") if RECTIFIED else 0, j, STRIDE_COLUMNS, LEFT,
                PAIRED, VECTOR,
            ))  # fmt: skip
            if RECTIFIED:
                tap += bias
                tap = tl.where(tap < 0, 0, tap)  # NaN stays NaN
            total += tap
        sums = sums + (total,)
    maps += vectors_at((plane * out_rows + y) * out_columns * units, cell, VECTOR)
    for k in tl.static_range(STRIP):
        total = sums[k * STRIDE_ROWS]
        for i in tl.static_range(1, WINDOW_ROWS):
            total += sums[k * STRIDE_ROWS + i]
        total = total / window_share(
            y + k, cell // units, rows, columns, WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT,
            BELOW, BESIDE, MODE,
        ).to(total.dtype)  # fmt: skip
        inside = both((strip < strips) & (y + k < out_rows), cell < cells)
        tl.store(maps + k * out_columns * units * VECTOR, total.to(maps.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=LENGTHS)
def _average_pool_of_many_taps(
    images, maps, strips, cells, units, rows, columns, out_rows, out_columns, COLUMN_GROUP: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, BELOW: tl.constexpr, BESIDE: tl.constexpr, MODE: tl.constexpr,
    VECTOR: tl.constexpr, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every window, for each tap: add. A strip is one row."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, y = strip // out_rows, strip % out_rows
    x, unit = cell // units, cell % units
    total = working(tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), images.dtype.element_ty))
    for i in range(WINDOW_ROWS):
        row = y * STRIDE_ROWS - TOP + i
        row_inside = (strip < strips) & (row >= 0) & (row < rows)
        for j in range(WINDOW_COLUMNS):
            column = x * STRIDE_COLUMNS - LEFT + j
            inside = both(row_inside, (cell < cells) & (column >= 0) & (column < columns))
            at = vectors_at((plane * rows + row) * columns * units, column * units + unit, VECTOR)
            total += working(tl.load(images + at, mask=inside, other=0))
    total = total / window_share(
        y, x, rows, columns, WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, BELOW, BESIDE, MODE,
    ).to(total.dtype)  # fmt: skip
    at = vectors_at(strip * out_columns * units, cell, VECTOR)
    tl.store(maps + at, total.to(maps.dtype.element_ty), mask=both(strip < strips, cell < cells))


@triton.jit
def _with_share(
    sums, value, pixel: tl.constexpr, i: tl.constexpr, j: tl.constexpr, WINDOW_ROWS: tl.constexpr,
    WINDOW_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums with what a window adds to a pixel, which is tap i, j of it, if it is one at all."""
    if i >= 0 and i < WINDOW_ROWS and j >= 0 and j < WINDOW_COLUMNS:
        sums = sums[:pixel] + (sums[pixel] + value,) + sums[pixel + 1 :]
    return sums


@triton.jit
def patch_sums(
    maps, plane, patch_row, strip_inside, cell, cells, units, rows, columns, out_rows, out_columns,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, BELOW: tl.constexpr, BESIDE: tl.constexpr, MODE: tl.constexpr,
    PATCH_ROWS: tl.constexpr, PATCH_COLUMNS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Of each pixel of patches, the sum of what windows that hold it give it: tensors (strips, cells, VECTOR)."""
    patch_column, unit = cell // units, cell % units
    sums = no_tensors()
    for _ in tl.static_range(PATCH_ROWS * PATCH_COLUMNS):
        zeros = tl.zeros((plane.shape[0], cell.shape[0], VECTOR), maps.dtype.element_ty)
        sums = sums + (working(zeros),)
    first_y, first_x = patch_row * (PATCH_ROWS // STRIDE_ROWS), patch_column * (PATCH_COLUMNS // STRIDE_COLUMNS)
    maps += vectors_at((plane * out_rows + first_y) * out_columns * units, first_x * units + unit, VECTOR)
    for k in tl.static_range(-((WINDOW_ROWS - 1 - TOP) // STRIDE_ROWS), (PATCH_ROWS - 1 + TOP) // STRIDE_ROWS + 1):
        y_inside = strip_inside & (first_y + k >= 0) & (first_y + k < out_rows)
        for m in tl.static_range(
            -((WINDOW_COLUMNS - 1 - LEFT) // STRIDE_COLUMNS), (PATCH_COLUMNS - 1 + LEFT) // STRIDE_COLUMNS + 1
        ):
            inside = both(y_inside, (cell < cells) & (first_x + m >= 0) & (first_x + m < out_columns))
            value = working(tl.load(maps + (k * out_columns + m) * units * VECTOR, mask=inside, other=0))
            share = window_share(
                first_y + k, first_x + m, rows, columns, WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP,
                LEFT, BELOW, BESIDE, MODE,
            )  # fmt: skip
            value = value / share.to(value.dtype)
            for r in tl.static_range(PATCH_ROWS):
                for q in tl.static_range(PATCH_COLUMNS):
                    sums = _with_share(
                        sums, value, r * PATCH_COLUMNS + q, r + TOP - k * STRIDE_ROWS, q + LEFT - m * STRIDE_COLUMNS,
                        WINDOW_ROWS, WINDOW_COLUMNS,
                    )  # fmt: skip
    return sums


@triton.jit(do_not_specialize_on_alignment=LENGTHS)
def _average_pool_grad(
    maps, images, strips, strips_each, cells, units, rows, columns, out_rows, out_columns, COLUMN_GROUP: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, BELOW: tl.constexpr, BESIDE: tl.constexpr, MODE: tl.constexpr,
    PATCH_ROWS: tl.constexpr, PATCH_COLUMNS: tl.constexpr, PAIRED: tl.constexpr, VECTOR: tl.constexpr,
    TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every patch, for each window that touches it: add the window's value, shared, to the pixels of both."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, patch_row = strip // strips_each, strip % strips_each
    sums = patch_sums(
        maps, plane, patch_row, strip < strips, cell, cells, units, rows, columns, out_rows, out_columns, WINDOW_ROWS,
        WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, BELOW, BESIDE, MODE, PATCH_ROWS, PATCH_COLUMNS, VECTOR,
    )  # fmt: skip
    store_patch(
        sums, images, plane, strip < strips, patch_row, cell, cells, units, rows, columns, PATCH_ROWS,
        PATCH_COLUMNS, PAIRED, VECTOR,
    )  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=LENGTHS)
def _average_pool_grad_of_many_taps(
    maps, images, strips, cells, units, rows, columns, out_rows, out_columns, COLUMN_GROUP: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr, BELOW: tl.constexpr, BESIDE: tl.constexpr, MODE: tl.constexpr,
    VECTOR: tl.constexpr, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every pixel, for each window that may hold it: add the window's value, shared. A strip is one row."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, row = strip // rows, strip % rows + TOP
    column, unit = cell // units + LEFT, cell % units
    total = working(tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), maps.dtype.element_ty))
    for k in range((WINDOW_ROWS - 1) // STRIDE_ROWS + 1):
        y = row // STRIDE_ROWS - k
        y_inside = (strip < strips) & (y >= 0) & (y < out_rows) & (row - y * STRIDE_ROWS < WINDOW_ROWS)
        for m in range((WINDOW_COLUMNS - 1) // STRIDE_COLUMNS + 1):
            x = column // STRIDE_COLUMNS - m
            x_inside = (cell < cells) & (x >= 0) & (x < out_columns) & (column - x * STRIDE_COLUMNS < WINDOW_COLUMNS)
            inside = both(y_inside, x_inside)
            at = vectors_at((plane * out_rows + y) * out_columns * units, x * units + unit, VECTOR)
            value = working(tl.load(maps + at, mask=inside, other=0))
            share = window_share(
                y, x, rows, columns, WINDOW_ROWS, WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, BELOW,
                BESIDE, MODE,
            )  # fmt: skip
            total += value / share.to(value.dtype)
    at = vectors_at(strip * columns * units, cell, VECTOR)
    tl.store(images + at, total.to(images.dtype.element_ty), mask=both(strip < strips, cell < cells))


@on_its_device
def average_pool2d(
    images: torch.Tensor,
    window: Any,
    stride: Any,
    padding: Any,
    ignore_border: bool,
    mode: str,
    memory_format: str | None = None,
) -> torch.Tensor:
    """The sum or average of every window; see `reference.average_pool2d`.

    Floor: images read once, maps written once. Measured on an H100, float32, as avg_p32 with a batch of 1024 and images
    of 64x32x32: 1.01 to 1.03 times the floor, the gradient 1.06 to 1.07.

    Parameters
    ----------
    images : tensor
        bc01, of floats, in any format.
    window, stride : pair of int
    padding : ((top, bottom), (left, right))
    ignore_border : bool
        Whether windows that hang over the (padded) edge are left out.
    mode : {'sum', 'average_inc_pad', 'average_exc_pad'}
    memory_format : str, optional
        The format of the result; by default that of ``images``.

    Returns
    -------
    tensor, (batch, channels, windows down, windows across)

    Raises
    ------
    ValueError
        Windows cannot slide over the images, or an argument is none of those above.
    """
    format = check_operand(FLOATS, memory_format, images=images)
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    check_mode(mode)
    maps = empty((*images.shape[:2], windows.out_rows, windows.out_columns), format, images.dtype, images.device)
    launch(to_format(images, format), maps, windows, format, mode)
    return maps


@on_its_device
def average_pool2d_grad(
    maps: torch.Tensor,
    rows: int,
    columns: int,
    window: Any,
    stride: Any,
    padding: Any,
    mode: str,
    memory_format: str | None = None,
) -> torch.Tensor:
    """The gradient of `average_pool2d` for its images of ``rows`` x ``columns``, given ``maps``, that of its result.

    Parameters
    ----------
    maps : tensor of floats, (batch, channels, windows down, windows across)
        In any format.
    rows, columns : int
        Of the images.
    window, stride, padding, mode
        As for `average_pool2d`.
    memory_format : str, optional
        The format of the result; by default that of ``maps``.

    Returns
    -------
    tensor, (batch, channels, rows, columns)

    Raises
    ------
    ValueError
        Such maps do not come from such images, or an argument is none of those above.
    """
    format = check_operand(FLOATS, memory_format, maps=maps)
    shape = (*maps.shape[:2], count(rows, "rows"), count(columns, "columns"))
    windows = check_pooled(shape, maps.shape, window, stride, padding)
    check_mode(mode)
    images = empty(shape, format, maps.dtype, maps.device)
    launch_grad(to_format(maps, format), images, windows, format, mode)
    return images


def check_mode(mode: str) -> None:
    """Raise ValueError unless it is a mode of averaging."""
    if mode not in tuple(MODES):  # a list, say, is no key
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")


def constants_of(windows: Windows, mode: str, vector: int, *tensors: torch.Tensor) -> dict[str, Any]:
    """What the kernels know when they are compiled, but for their tiles."""
    (_, below), (_, beside) = windows.padding
    return dict(
        **windows.constants(), BELOW=below, BESIDE=beside, MODE=MODES[mode], VECTOR=vector, WIDE=is_wide(*tensors),
        **launch_options(tensors[0].device),
    )  # fmt: skip


def launch(
    images, maps, windows: Windows, format: str, mode: str, tile: Tile | None = None, biases: torch.Tensor | None = None
) -> None:
    """Run the kernel on tensors of one format; with ``biases``, windows must be written out and planes of channels."""
    if not maps.numel():
        return
    planes = Planes.of(images.shape, format)
    vector = planes.vector(images.element_size())
    units = planes.inner // vector
    cells = windows.out_columns * units
    constants = constants_of(windows, mode, vector, images, maps)
    if not is_written_out(windows):
        strips = planes.number * windows.out_rows
        tile = tile_for(strips, cells, 1, vector)
        _average_pool_of_many_taps[grid(tile, strips, cells)](
            images, maps, strips, cells, units, *windows.lengths(), **constants, **tile.constants()
        )
        return
    tile = tile or strip_tile(planes, windows, vector)
    strips_each = -(-windows.out_rows // tile.rows)
    strips = planes.number * strips_each
    _average_pool[grid(tile, strips, cells)](
        images, biases, maps, images.shape[1], strips, strips_each, cells, units, *windows.lengths(), **constants,
        **tile.constants(), RECTIFIED=biases is not None, PAIRED=windows.is_paired(planes.inner), STRIP=tile.rows,
    )  # fmt: skip


def launch_grad(
    maps, images, windows: Windows, format: str, mode: str, patch: Patch | None = None, tile: Tile | None = None
) -> None:
    """Run the kernel of the gradient on tensors of one format."""
    if not images.numel():
        return
    planes = Planes.of(images.shape, format)
    vector = planes.vector(images.element_size())
    units = planes.inner // vector
    constants = constants_of(windows, mode, vector, images, maps)
    patch = patch or patch_for(planes, windows, vector)
    if patch is None:
        strips, cells = planes.number * windows.rows, windows.columns * units
        tile = tile_for(strips, cells, 1, vector)
        _average_pool_grad_of_many_taps[grid(tile, strips, cells)](
            maps, images, strips, cells, units, *windows.lengths(), **constants, **tile.constants()
        )
        return
    strips, cells = patch.counts(planes, windows, vector)
    tile = tile or tile_for(strips, cells, patch.rows, vector)
    _average_pool_grad[grid(tile, strips, cells)](
        maps, images, strips, strips // planes.number, cells, units, *windows.lengths(), **constants,
        **tile.constants(), PATCH_ROWS=patch.rows, PATCH_COLUMNS=patch.columns, PAIRED=patch.is_paired(planes.inner),
    )  # fmt: skip
