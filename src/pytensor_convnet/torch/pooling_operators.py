"""Pooling as operators of torch: what they compute, what their results look like, and their gradients.

They are ``torch.ops.pytensor_convnet.max_pool2d`` and so on. A padding is (rows, columns), the same on both sides.
Results are in the physical format of the first operand, or bc01 where it has none; the gradient of an average, in
the one asked for, that of the images, since gradients that come from a sum have none.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.geometry import Padding
from pytensor_convnet.kernels.cuda import average_pooling, max_pooling, max_pooling_grad
from pytensor_convnet.kernels.cuda.formats import empty, memory_format
from pytensor_convnet.kernels.cuda.pool_plans import check_pool


def sides_of(padding: list[int]) -> Padding:
    """A padding as the kernels want it."""
    rows, columns = padding
    return (rows, rows), (columns, columns)


def format_of(tensor: Tensor) -> str:
    """The physical format of results where this is the first operand."""
    return memory_format(tensor) or "bc01"


def _like(tensor: Tensor, rows: int, columns: int, format: str | None = None) -> Tensor:
    """An uninitialised tensor of other rows and columns, in the same format or another."""
    shape = (*tensor.shape[:2], rows, columns)
    return empty(shape, format or format_of(tensor), tensor.dtype, tensor.device)


def _pooled(images: Tensor, window: list[int], stride: list[int], padding: list[int], partial: bool) -> Tensor:
    windows = check_pool(images.shape, window, stride, sides_of(padding), not partial)
    return _like(images, windows.out_rows, windows.out_columns)


def winners_dtype(window: list[int]) -> torch.dtype:
    """One byte numbers the taps of a window of at most 256."""
    return torch.uint8 if window[0] * window[1] <= 256 else torch.int64


@custom_op("pytensor_convnet::max_pool2d", mutates_args=())
def max_pool2d(
    images: Tensor, window: list[int], stride: list[int], padding: list[int], partial: bool
) -> tuple[Tensor, Tensor]:
    """The maxima of windows and their winners; see `kernels.cuda.max_pooling.max_pool2d`."""
    return max_pooling.max_pool2d(images, winners_dtype(window), window, stride, sides_of(padding), not partial)


@custom_op("pytensor_convnet::max_pool2d_grad", mutates_args=())
def max_pool2d_grad(
    winners: Tensor, maps: Tensor, rows: int, columns: int, window: list[int], stride: list[int], padding: list[int]
) -> Tensor:
    """``maps`` at the pixels that won, in images of ``rows`` x ``columns``."""
    return max_pooling_grad.max_pool2d_grad(
        winners, maps, rows, columns, window, stride, sides_of(padding), format_of(winners)
    )


@custom_op("pytensor_convnet::max_pool2d_gather", mutates_args=())
def max_pool2d_gather(
    images: Tensor, winners: Tensor, window: list[int], stride: list[int], padding: list[int]
) -> Tensor:
    """``images`` at the pixels that won."""
    return max_pooling_grad.max_pool2d_gather(images, winners, window, stride, sides_of(padding))


@custom_op("pytensor_convnet::average_pool2d", mutates_args=())
def average_pool2d(
    images: Tensor, window: list[int], stride: list[int], padding: list[int], partial: bool, mode: str
) -> Tensor:
    """The averages or sums of windows; see `kernels.cuda.average_pooling.average_pool2d`."""
    return average_pooling.average_pool2d(images, window, stride, sides_of(padding), not partial, mode)


@custom_op("pytensor_convnet::average_pool2d_grad", mutates_args=())
def average_pool2d_grad(
    maps: Tensor, rows: int, columns: int, format: str, window: list[int], stride: list[int], padding: list[int],
    partial: bool, mode: str,
) -> Tensor:  # fmt: skip
    """``maps`` spread over their windows, in images of ``rows`` x ``columns``."""
    return average_pooling.average_pool2d_grad(maps, rows, columns, window, stride, sides_of(padding), mode, format)


# ------------------------------------------------------------------------ what results look like


@max_pool2d.register_fake
def _(images, window, stride, padding, partial):
    maxima = _pooled(images, window, stride, padding, partial)
    return maxima, torch.empty_like(maxima, dtype=winners_dtype(window))


@max_pool2d_grad.register_fake
def _(winners, maps, rows, columns, window, stride, padding):
    return _like(maps, rows, columns, format_of(winners))


@max_pool2d_gather.register_fake
def _(images, winners, window, stride, padding):
    return _like(images, *winners.shape[2:])


@average_pool2d.register_fake
def _(images, window, stride, padding, partial, mode):
    return _pooled(images, window, stride, padding, partial)


@average_pool2d_grad.register_fake
def _(maps, rows, columns, format, window, stride, padding, partial, mode):
    return _like(maps, rows, columns, format)


# -------------------------------------------------------------------------------------- gradients


def _keep_max_pool(ctx: Any, inputs: Any, output: Any) -> None:
    images, *ctx.windows, _ = inputs
    ctx.lengths = images.shape[2:]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_pool_backward(ctx: Any, maps: Tensor, _: None) -> Any:
    [winners] = ctx.saved_tensors
    return max_pool2d_grad(winners, maps, *ctx.lengths, *ctx.windows), None, None, None, None


def _keep_max_pool_grad(ctx: Any, inputs: Any, output: Any) -> None:
    winners, _, _, _, *ctx.windows = inputs
    ctx.save_for_backward(winners)


def _max_pool_grad_backward(ctx: Any, images: Tensor) -> Any:
    [winners] = ctx.saved_tensors
    return None, max_pool2d_gather(images, winners, *ctx.windows), None, None, None, None, None


def _keep_max_pool_gather(ctx: Any, inputs: Any, output: Any) -> None:
    images, winners, *ctx.windows = inputs
    ctx.lengths = images.shape[2:]
    ctx.save_for_backward(winners)


def _max_pool_gather_backward(ctx: Any, maps: Tensor) -> Any:
    [winners] = ctx.saved_tensors
    return max_pool2d_grad(winners, maps, *ctx.lengths, *ctx.windows), None, None, None, None


def _keep_average_pool(ctx: Any, inputs: Any, output: Any) -> None:
    images, *ctx.windows = inputs
    ctx.lengths, ctx.format = images.shape[2:], format_of(images)


def _average_pool_backward(ctx: Any, maps: Tensor) -> Any:
    return average_pool2d_grad(maps, *ctx.lengths, ctx.format, *ctx.windows), None, None, None, None, None


def _keep_average_pool_grad(ctx: Any, inputs: Any, output: Any) -> None:
    _, _, _, _, *ctx.windows = inputs


def _average_pool_grad_backward(ctx: Any, images: Tensor) -> Any:
    return average_pool2d(images, *ctx.windows), *[None] * 8


max_pool2d.register_autograd(_max_pool_backward, setup_context=_keep_max_pool)
max_pool2d_grad.register_autograd(_max_pool_grad_backward, setup_context=_keep_max_pool_grad)
max_pool2d_gather.register_autograd(_max_pool_gather_backward, setup_context=_keep_max_pool_gather)
average_pool2d.register_autograd(_average_pool_backward, setup_context=_keep_average_pool)
average_pool2d_grad.register_autograd(_average_pool_grad_backward, setup_context=_keep_average_pool_grad)
