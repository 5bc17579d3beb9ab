"""Max pooling on the GPU.

    maxima[b, c, y, x]  = max over i, j of  images[b, c, y * stride + i - top, x * stride + j - left]
    winners[b, c, y, x] = i * window_columns + j  of that maximum

Padding never wins, NaN does, and of equal maxima the first in row-major order wins: of each row of taps the first
greatest, and of the rows the first whose greatest is greatest. A program computes strips of several rows of maxima, so
that a row of the image that several windows share is read and compared along columns once.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.activations import finished
from pytensor_convnet.kernels.cuda.bfloat16_keys import FIRST, OUTSIDE, keys_of
from pytensor_convnet.kernels.cuda.conv_pool_keys import key_values
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import empty, is_wide, to_format
from pytensor_convnet.kernels.cuda.pool_plans import (
    FLOATS,
    INTEGERS,
    Planes,
    Tile,
    Windows,
    check_operand,
    check_pool,
    grid,
    is_written_out,
    on_its_device,
    strip_tile,
    tile_for,
)
from pytensor_convnet.kernels.cuda.pool_rows_kernel import goes_by_rows, pool_rows, rows_plan
from pytensor_convnet.kernels.cuda.pool_tiles import (
    LENGTHS,
    beats,
    both,
    first_pixels,
    load,
    load_tap,
    no_tensors,
    tile_place,
    vectors_at,
    working,
)

DTYPES = (*FLOATS, *INTEGERS, torch.bool)
WINNERS = (torch.uint8, torch.int32, torch.int64)


@triton.jit
def _tile_biases(biases, plane, cell, units, channels, VECTOR: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Those of a tile's maxima."""
    if CHANNELS_LAST:
        channel = vectors_at(tl.zeros(plane.shape, plane.dtype), cell % units, VECTOR)
    else:
        channel = (plane % channels)[:, None, None]
    return tl.load(biases + channel).to(tl.float32)


@triton.jit
def _greatest_of_row(
    at, row_inside, cell, cells, columns, units, WINDOW_COLUMNS: tl.constexpr, LOWEST: tl.constexpr,
    STRIDE: tl.constexpr, LEFT: tl.constexpr, PAIRED: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The first greatest of each window's taps in a row of the image, and which it is."""
    best = working(load_tap(at, row_inside, cell, cells, columns, units, LOWEST, 0, STRIDE, LEFT, PAIRED, VECTOR))
    tap = tl.zeros(best.shape, tl.int32)
    for j in tl.static_range(1, WINDOW_COLUMNS):
        value = working(load_tap(at, row_inside, cell, cells, columns, units, LOWEST, j, STRIDE, LEFT, PAIRED, VECTOR))
        wins = beats(value, best)
        best, tap = tl.where(wins, value, best), tl.where(wins, j, tap)
    return best, tap


@triton.jit
def _greatest(
    bests, taps, first: tl.constexpr, first_row, skipped, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr,
    TOP: tl.constexpr, LEFT: tl.constexpr,
):  # fmt: skip
    """The first greatest of windows' rows, which begin with ``first``, and its tap.

    Where padding is as low as all that is inside the image, the first tap inside wins; ``skipped`` are left of it.
    """
    best, winner = bests[first], taps[first]
    if LEFT > 0:
        winner = tl.maximum(winner, skipped)
    if TOP > 0:
        above = tl.maximum(-(first_row + first), 0).to(tl.int32)
        winner += (above * WINDOW_COLUMNS)[:, None, None]
    for i in tl.static_range(1, WINDOW_ROWS):
        value, tap = bests[first + i], taps[first + i]
        if LEFT > 0:
            tap = tl.maximum(tap, skipped)
        wins = beats(value, best)
        best, winner = tl.where(wins, value, best), tl.where(wins, tap + i * WINDOW_COLUMNS, winner)
    return best, winner


@triton.jit
def _greatest_key_of_row(
    at, row_inside, cell, cells, columns, units, WINDOW_COLUMNS: tl.constexpr, LOWEST: tl.constexpr,
    STRIDE: tl.constexpr, LEFT: tl.constexpr, PAIRED: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The same of bfloat16, as keys whose taps are numbered from the row's first."""
    best = tl.full((1, 1, 1), -(2**31), tl.int32)
    for j in tl.static_range(WINDOW_COLUMNS):
        number = load_tap(at, row_inside, cell, cells, columns, units, LOWEST, j, STRIDE, LEFT, PAIRED, VECTOR)
        lower = tl.full((1, 1, 1), FIRST - j, tl.int32)
        if j < LEFT:
            lower -= (cell // units * STRIDE < LEFT - j).to(tl.int32)[None, :, None] * OUTSIDE
        best = tl.maximum(best, keys_of(number, lower))
    return best


@triton.jit
def _greatest_key(
    bests, first: tl.constexpr, first_row, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, TOP: tl.constexpr
):
    """The greatest of windows' rows of bfloat16, which begin with ``first``, and its tap."""
    best = tl.full((1, 1, 1), -(2**31), tl.int32)
    for i in tl.static_range(WINDOW_ROWS):
        row = bests[first + i] - i * WINDOW_COLUMNS
        if first + i < TOP:
            row -= (first_row + first + i < 0).to(tl.int32)[:, None, None] * OUTSIDE
        best = tl.maximum(best, row)
    return key_values(best, TAP_BITS=16)


@triton.jit(do_not_specialize=["channels"], do_not_specialize_on_alignment=LENGTHS)
def _max_pool(
    images, maxima, winners, biases, channels, strips, strips_each, cells, units, rows, columns, out_rows, out_columns,
    COLUMN_GROUP: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr,
    STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, LOWEST: tl.constexpr, PAIRED: tl.constexpr,
    VECTOR: tl.constexpr, STRIP: tl.constexpr, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr,
    WITH_WINNERS: tl.constexpr, ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every strip: for each row of the image the greatest of each window's taps in it; then those of its rows."""
    KEYED: tl.constexpr = images.dtype.element_ty == tl.bfloat16
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, y = strip // strips_each, (strip % strips_each) * STRIP
    first_row = y * STRIDE_ROWS - TOP
    line = (plane * rows + first_row) * columns * units
    first = first_pixels(images, line, cell, units, STRIDE_COLUMNS, LEFT, PAIRED, VECTOR)
    bests = no_tensors()
    taps = no_tensors()
    for i in tl.static_range((STRIP - 1) * STRIDE_ROWS + WINDOW_ROWS):
        row = first_row + i
        row_inside = (strip < strips) & (row >= 0) & (row < rows)
        at = first + i * columns * units * VECTOR
        if KEYED:
            best = _greatest_key_of_row(
                at, row_inside, cell, cells, columns, units, WINDOW_COLUMNS, LOWEST, STRIDE_COLUMNS, LEFT, PAIRED,
                VECTOR,
            )  # fmt: skip
            tap = 0
        else:
            best, tap = _greatest_of_row(
                at, row_inside, cell, cells, columns, units, WINDOW_COLUMNS, LOWEST, STRIDE_COLUMNS, LEFT, PAIRED,
                VECTOR,
            )  # fmt: skip
        bests = bests + (best,)
        taps = taps + (tap,)
    maxima += vectors_at((plane * out_rows + y) * out_columns * units, cell, VECTOR)
    if WITH_WINNERS:
        winners += vectors_at((plane * out_rows + y) * out_columns * units, cell, VECTOR)
    for k in tl.static_range(STRIP):
        if KEYED:
            best, winner = _greatest_key(bests, k * STRIDE_ROWS, first_row, WINDOW_ROWS, WINDOW_COLUMNS, TOP)
        else:
            skipped = tl.maximum(LEFT - cell // units * STRIDE_COLUMNS, 0).to(tl.int32)[None, :, None]
            best, winner = _greatest(
                bests, taps, k * STRIDE_ROWS, first_row, skipped, WINDOW_ROWS, WINDOW_COLUMNS, TOP, LEFT
            )  # fmt: skip
        if ACTIVATION is not None:
            bias = _tile_biases(biases, plane, cell, units, channels, VECTOR, CHANNELS_LAST)
            best, winner = finished(best, winner, bias, ACTIVATION)
        inside = both((strip < strips) & (y + k < out_rows), cell < cells)
        step = k * out_columns * units * VECTOR
        tl.store(maxima + step, best.to(maxima.dtype.element_ty), mask=inside)
        if WITH_WINNERS:
            tl.store(winners + step, winner.to(winners.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["channels"], do_not_specialize_on_alignment=LENGTHS)
def _max_pool_of_many_taps(
    images, maxima, winners, biases, channels, strips, cells, units, rows, columns, out_rows, out_columns,
    COLUMN_GROUP: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr, STRIDE_ROWS: tl.constexpr,
    STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, LOWEST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr, WIDE: tl.constexpr, WITH_WINNERS: tl.constexpr,
    ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every window, for each tap: compare. A strip is one row."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, y = strip // out_rows, strip % out_rows
    x, unit = cell // units, cell % units
    first_row, first_column = y * STRIDE_ROWS - TOP, x * STRIDE_COLUMNS - LEFT
    first_tap = tl.maximum(-first_row, 0)[:, None] * WINDOW_COLUMNS + tl.maximum(-first_column, 0)[None, :]
    winner = tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), tl.int32) + first_tap[:, :, None].to(tl.int32)
    best = working(tl.full((TILE_STRIPS, TILE_CELLS, VECTOR), LOWEST, images.dtype.element_ty))
    for i in range(WINDOW_ROWS):
        row = first_row + i
        row_inside = (strip < strips) & (row >= 0) & (row < rows)
        for j in range(WINDOW_COLUMNS):
            column = first_column + j
            inside = both(row_inside, (cell < cells) & (column >= 0) & (column < columns))
            at = vectors_at((plane * rows + row) * columns * units, column * units + unit, VECTOR)
            value = working(load(images + at, inside, LOWEST))
            wins = beats(value, best)
            best, winner = tl.where(wins, value, best), tl.where(wins, i * WINDOW_COLUMNS + j, winner)
    if ACTIVATION is not None:
        bias = _tile_biases(biases, strip // out_rows, cell, units, channels, VECTOR, CHANNELS_LAST)
        best, winner = finished(best, winner, bias, ACTIVATION)
    inside = both(strip < strips, cell < cells)
    at = vectors_at(strip * out_columns * units, cell, VECTOR)
    tl.store(maxima + at, best.to(maxima.dtype.element_ty), mask=inside)
    if WITH_WINNERS:
        tl.store(winners + at, winner.to(winners.dtype.element_ty), mask=inside)


@on_its_device
def max_pool2d(
    images: torch.Tensor,
    winners_dtype: torch.dtype,
    window: Any,
    stride: Any,
    padding: Any,
    ignore_border: bool,
    memory_format: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of every window and the tap that won it; see `reference.max_pool2d`.

    Floor: images read once, maxima and winners written once. Measured on an H100, which copies 3.0 TB/s, float32:
    vgg_p22 and cifar_p32_b1024 at the floor in every format, alex_p32 and p31 at 1.01 and 1.04 times it, in bc01 1.16
    and 1.26. bfloat16: 0.99 to 1.19 times it, in bc01 1.17 to 1.39.

    Parameters
    ----------
    images : tensor
        bc01, of floats, integers or bool, in any format.
    winners_dtype : torch dtype
        uint8 (at most 256 taps), int32 or int64.
    window, stride : pair of int
    padding : ((top, bottom), (left, right))
    ignore_border : bool
        Whether windows that hang over the (padded) edge are left out.
    memory_format : str, optional
        The format of the results; by default that of ``images``.

    Returns
    -------
    maxima : tensor, (batch, channels, windows down, windows across)
        Of the dtype of ``images``.
    winners : tensor
        Of the same shape: the row of the winning tap in its window, times the window's columns, plus its column.

    Raises
    ------
    ValueError
        Windows cannot slide over the images, or an argument is none of those above.
    """
    windows, format = _checked(images, window, stride, padding, ignore_border, memory_format)
    check_winners_dtype(winners_dtype, windows)
    shape = (*images.shape[:2], windows.out_rows, windows.out_columns)
    maxima = empty(shape, format, images.dtype, images.device)
    winners = empty(shape, format, winners_dtype, images.device)
    launch(to_format(images, format), maxima, winners, windows, format)
    return maxima, winners


@on_its_device
def max_pool2d_maxima(
    images: torch.Tensor,
    window: Any,
    stride: Any,
    padding: Any,
    ignore_border: bool,
    memory_format: str | None = None,
) -> torch.Tensor:
    """`max_pool2d` without the winners, where nothing follows them.

    Floor: images read once, maxima written once; not measured by itself, but as the forward pass of `max_pool2d`, whose
    kernel it is.

    Parameters
    ----------
    images, window, stride, padding, ignore_border, memory_format
        As for `max_pool2d`.

    Returns
    -------
    tensor, (batch, channels, windows down, windows across)
        Of the dtype of ``images``.

    Raises
    ------
    ValueError
        As for `max_pool2d`.
    """
    windows, format = _checked(images, window, stride, padding, ignore_border, memory_format)
    shape = (*images.shape[:2], windows.out_rows, windows.out_columns)
    maxima = empty(shape, format, images.dtype, images.device)
    launch(to_format(images, format), maxima, None, windows, format)
    return maxima


def _checked(images, window, stride, padding, ignore_border, memory_format) -> tuple[Windows, str]:
    format = check_operand(DTYPES, memory_format, images=images)
    return check_pool(images.shape, window, stride, padding, ignore_border), format


def check_winners_dtype(winners_dtype: torch.dtype, windows: Windows) -> None:
    """Raise ValueError unless it can number the taps of the windows."""
    if winners_dtype not in WINNERS:
        raise ValueError(f"winners_dtype must be torch.uint8, torch.int32 or torch.int64, got {winners_dtype!r}")
    if winners_dtype == torch.uint8 and windows.taps > 256:
        raise ValueError(
            f"winners_dtype: one byte cannot number the {windows.taps} taps of a window of "
            f"{windows.window[0]}x{windows.window[1]}: pass torch.int64"
        )


def lowest(dtype: torch.dtype) -> float | int:
    """What no number is below."""
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def launch(
    images, maxima, winners, windows: Windows, format: str, tile: Tile | None = None,
    biases: torch.Tensor | None = None, activation: str | None = None,
) -> None:  # fmt: skip
    """Run the kernel on tensors of one format; ``winners`` may be None, or ``activation``, for maxima as they are."""
    if not maxima.numel():
        return
    if images.dtype == torch.bool:
        images, maxima = images.view(torch.uint8), maxima.view(torch.uint8)
    planes = Planes.of(images.shape, format)
    if tile is None and activation is None and goes_by_rows(images, winners, format, windows):
        plan = rows_plan(planes.number, windows, winners is not None)
        if plan is not None:
            return pool_rows(images, maxima, winners, plan)
    vector = planes.vector(images.element_size())
    units = planes.inner // vector
    cells = windows.out_columns * units
    constants = dict(
        **windows.constants(), LOWEST=lowest(images.dtype), VECTOR=vector, WIDE=is_wide(images, maxima),
        WITH_WINNERS=winners is not None, ACTIVATION=activation, CHANNELS_LAST=format == "channels_last",
        **launch_options(images.device),
    )  # fmt: skip
    if not is_written_out(windows):
        strips = planes.number * windows.out_rows
        tile = tile_for(strips, cells, 1, vector)
        _max_pool_of_many_taps[grid(tile, strips, cells)](
            images, maxima, winners, biases, images.shape[1], strips, cells, units, *windows.lengths(), **constants,
            **tile.constants(),
        )  # fmt: skip
        return
    tile = tile or strip_tile(planes, windows, vector)
    strips_each = -(-windows.out_rows // tile.rows)
    strips = planes.number * strips_each
    _max_pool[grid(tile, strips, cells)](
        images, maxima, winners, biases, images.shape[1], strips, strips_each, cells, units, *windows.lengths(),
        **constants, **tile.constants(), PAIRED=windows.is_paired(planes.inner), STRIP=tile.rows,
    )  # fmt: skip
