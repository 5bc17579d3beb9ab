"""Average pooling of biased and rectified maps in one step, which never writes ``max(images + biases, 0)``.

    maps[b, c, y, x] = average over the window y, x of  max(images[b, c] + biases[c], 0)

The forward pass is a kernel of `average_pooling` that is told of the biases. The gradient gathers, as that one's does,
what windows give each pixel, keeps it where the biased pixel is not negative, and sums what it keeps for the biases.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda import average_pooling
from pytensor_convnet.kernels.cuda.average_pooling import bias_of_plane, check_mode, constants_of, patch_sums
from pytensor_convnet.kernels.cuda.checks import check_biases
from pytensor_convnet.kernels.cuda.copying import change_format
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor
from pytensor_convnet.kernels.cuda.formats import empty
from pytensor_convnet.kernels.cuda.pixel_sums import add_parts, sum_over_pixels
from pytensor_convnet.kernels.cuda.pool_plans import (
    FLOATS,
    Patch,
    Planes,
    Windows,
    check_operand,
    check_pool,
    check_pooled,
    grid,
    is_written_out,
    on_its_device,
    patch_for,
    tile_for,
)
from pytensor_convnet.kernels.cuda.pool_tiles import (
    LENGTHS,
    both,
    no_tensors,
    store_patch,
    tile_place,
    vectors_at,
    working,
)
from pytensor_convnet.kernels.cuda.streams import allowed, beside


@triton.jit(do_not_specialize=["channels"], do_not_specialize_on_alignment=LENGTHS)
def _rectified_average_pool_grad(
    images, biases, maps, gradient, partial, channels, strips, strips_each, cells, units, rows, columns, out_rows,
    out_columns, COLUMN_GROUP: tl.constexpr, WINDOW_ROWS: tl.constexpr, WINDOW_COLUMNS: tl.constexpr,
    STRIDE_ROWS: tl.constexpr, STRIDE_COLUMNS: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    BELOW: tl.constexpr, BESIDE: tl.constexpr, MODE: tl.constexpr, PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr, VECTOR: tl.constexpr, TILE_STRIPS: tl.constexpr, TILE_CELLS: tl.constexpr,
    WIDE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """For every patch: what windows give its pixels where these are not negative; the sum of that for each strip."""
    columns *= COLUMN_GROUP
    strip, cell = tile_place(cells, TILE_STRIPS, TILE_CELLS, WIDE)
    await_predecessor(DEPENDENT)
    plane, patch_row = strip // strips_each, strip % strips_each
    sums = patch_sums(
        maps, plane, patch_row, strip < strips, cell, cells, units, rows, columns, out_rows, out_columns, WINDOW_ROWS,
        WINDOW_COLUMNS, STRIDE_ROWS, STRIDE_COLUMNS, TOP, LEFT, BELOW, BESIDE, MODE, PATCH_ROWS, PATCH_COLUMNS, VECTOR,
    )  # fmt: skip
    bias = bias_of_plane(biases, plane, channels)
    row, column = patch_row * PATCH_ROWS, cell // units * PATCH_COLUMNS
    first = images + vectors_at((plane * rows + row) * columns * units, column * units + cell % units, VECTOR)
    kept = no_tensors()
    total = working(tl.zeros((TILE_STRIPS, TILE_CELLS, VECTOR), images.dtype.element_ty))
    for r in tl.static_range(PATCH_ROWS):
        for q in tl.static_range(PATCH_COLUMNS):
            inside = both((strip < strips) & (row + r < rows), (cell < cells) & (column + q < columns))
            pixel = working(tl.load(first + (r * columns + q) * units * VECTOR, mask=inside, other=float("nan")))
            value = tl.where(pixel + bias >= 0, sums[r * PATCH_COLUMNS + q], 0)  # of NaN nothing
            kept = kept + (value,)
            total += value
    store_patch(
        kept, gradient, plane, strip < strips, patch_row, cell, cells, units, rows, columns, PATCH_ROWS,
        PATCH_COLUMNS, False, VECTOR,
    )  # fmt: skip
    tiles = tl.cdiv(cells, TILE_CELLS)
    at = partial + strip * tiles + tl.program_id(0) % tiles
    tl.store(at, tl.sum(tl.sum(total, axis=2), axis=1), mask=strip < strips)


@on_its_device
def rectified_average_pool2d(
    images: torch.Tensor,
    biases: torch.Tensor,
    window: Any,
    stride: Any,
    padding: Any,
    ignore_border: bool,
    mode: str,
    memory_format: str | None = None,
) -> torch.Tensor:
    """`average_pool2d` of ``max(images + biases, 0)``; see `reference.rectified_average_pool2d`.

    Floor: images read once, maps written once. Not measured by itself, but in a step of cuda-convnet's network at
    batch 128 (`docs/cuda-pooling.md`): 4 to 5 us less than the two to three kernels of each pass took. A bias of
    infinity makes NaN of windows that reach beyond the images.

    Parameters
    ----------
    images, window, stride, padding, ignore_border, mode, memory_format
        As for `average_pool2d`.
    biases : tensor, (channels,)
        Of the dtype of the images, or of float32.

    Returns
    -------
    tensor, (batch, channels, windows down, windows across)

    Raises
    ------
    ValueError
        As for `average_pool2d`; or biases are not one for each channel.
    """
    format = check_operand(FLOATS, memory_format, images=images)
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    check_mode(mode)
    check_biases(biases, images, channels=images.shape[1])
    if not is_written_out(windows):
        rectified = (images + biases[:, None, None]).clamp(min=0)
        maps = average_pooling.average_pool2d(rectified, window, stride, padding, ignore_border, mode, format)
        return maps.to(images.dtype)  # biases may be wider
    by_planes = _with_planes_of_channels(format)
    shape = (*images.shape[:2], windows.out_rows, windows.out_columns)
    maps = empty(shape, by_planes, images.dtype, images.device)
    average_pooling.launch(change_format(images, by_planes), maps, windows, by_planes, mode, biases=biases)
    return change_format(maps, format)


@on_its_device
def rectified_average_pool2d_grad(
    images: torch.Tensor,
    biases: torch.Tensor,
    maps: torch.Tensor,
    window: Any,
    stride: Any,
    padding: Any,
    mode: str,
    memory_format: str | None = None,
    *,
    late: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `rectified_average_pool2d` for its images and biases, given ``maps``, that of its output.

    Floor: images and maps read once, the gradient of images written once. Not measured by itself; see
    `rectified_average_pool2d`.

    Parameters
    ----------
    images, biases, window, stride, padding, mode
        As for `rectified_average_pool2d`.
    maps : tensor, (batch, channels, windows down, windows across)
        Of the dtype of the images, in any format.
    memory_format : str, optional
        The format of the gradient of images; by default that of ``images``.
    late : bool
        Whether the gradient of biases may run beside what follows; see `streams.awaited`.

    Returns
    -------
    tensor
        Of the shape of the images. Where a biased pixel is exactly 0, the gradient passes.
    tensor, (channels,)
        Of float32, or of float64 where images are.

    Raises
    ------
    ValueError
        As for `rectified_average_pool2d`; or such maps do not come from such images.
    """
    format = check_operand(FLOATS, memory_format, images=images, maps=maps)
    windows = check_pooled(images.shape, maps.shape, window, stride, padding)
    check_mode(mode)
    check_biases(biases, images, channels=images.shape[1])
    by_planes = _with_planes_of_channels(format)
    images, maps = change_format(images, by_planes), change_format(maps, by_planes)
    planes = Planes.of(images.shape, by_planes)
    patch = patch_for(planes, windows, planes.vector(images.element_size())) if images.numel() else None
    if patch is None:
        spread = average_pooling.average_pool2d_grad(
            maps, windows.rows, windows.columns, window, stride, padding, mode, by_planes
        )
        gradient = spread.where(images + biases[:, None, None] >= 0, 0)
        sums = sum_over_pixels(gradient)
    else:
        gradient = empty(images.shape, by_planes, images.dtype, images.device)
        partial = _launch_grad(images, biases, maps, gradient, windows, planes, patch, mode)
        with allowed(late), beside(partial, small=True):
            sums = add_parts(partial[0]) if len(partial) == 1 else partial.sum((0, 2))
    return change_format(gradient, format), sums


def _with_planes_of_channels(format: str) -> str:
    """The format itself, or batch_last instead of channels_last, where a plane has all channels."""
    return "batch_last" if format == "channels_last" else format


def _launch_grad(
    images, biases, maps, gradient, windows: Windows, planes: Planes, patch: Patch, mode: str
) -> torch.Tensor:
    """Run the kernel on tensors of one format, and give parts of sums, (planes of a channel, channels, parts)."""
    vector = planes.vector(images.element_size())
    strips, cells = patch.counts(planes, windows, vector)
    tile = tile_for(strips, cells, patch.rows, vector)
    channels, programs = images.shape[1], grid(tile, strips, cells)
    parts = strips // planes.number * -(-cells // tile.cells)
    summed = torch.float64 if images.dtype == torch.float64 else torch.float32
    partial = torch.empty((planes.number // channels, channels, parts), dtype=summed, device=images.device)
    _rectified_average_pool_grad[programs](
        images, biases.contiguous(), maps, gradient, partial, channels, strips, strips // planes.number, cells,
        planes.inner // vector, *windows.lengths(), **constants_of(windows, mode, vector, images, maps),
        **tile.constants(), PATCH_ROWS=patch.rows, PATCH_COLUMNS=patch.columns,
    )  # fmt: skip
    return partial
