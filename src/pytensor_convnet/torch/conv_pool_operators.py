"""Convolution, bias, activation and max pooling as one operator of torch, with its gradients.

They are ``torch.ops.pytensor_convnet.correlate2d_max_pool2d`` and so on. A padding of filters is (top, bottom, left,
right), one of windows (rows, columns). The gradients take pooled ``maps``, the gradient of the maxima before these
were biased and activated; each is linear in its tensor and in ``maps``, and the derivative for either is another of
these operators. Formats are as in `convolution_operators`.
"""

from typing import Any

from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.kernels.cuda import conv_pool
from pytensor_convnet.kernels.cuda.formats import empty
from pytensor_convnet.kernels.cuda.pool_plans import check_pool
from pytensor_convnet.torch.convolution_operators import (
    correlate2d,
    filter_format_of,
    format_of,
    map_lengths,
    moves_of,
    resolved,
)
from pytensor_convnet.torch.pooling_operators import max_pool2d_gather, sides_of, winners_dtype

SLOPES: dict[str, Any] = {
    "identity": lambda y: None,
    "relu": lambda y: (y > 0).to(y.dtype),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}
"""Of each activation, its derivative as a function of its value; None for one."""


@custom_op("pytensor_convnet::correlate2d_max_pool2d", mutates_args=())
def correlate2d_max_pool2d(
    images: Tensor, filters: Tensor, biases: Tensor, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, precision: str, window: list[int], pool_stride: list[int], pool_padding: list[int], partial: bool,
    activation: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Maxima, biased and activated, and winners; see `kernels.cuda.conv_pool.correlate2d_max_pool2d`."""
    return conv_pool.correlate2d_max_pool2d(
        images, filters, winners_dtype(window), *moves_of(stride, padding, dilation, groups), window, pool_stride,
        sides_of(pool_padding), not partial, biases, activation, precision=resolved(precision),
    )  # fmt: skip


@custom_op("pytensor_convnet::correlate2d_max_pool2d_input_grad", mutates_args=())
def correlate2d_max_pool2d_input_grad(
    filters: Tensor, winners: Tensor, maps: Tensor, rows: int, columns: int, format: str, map_rows: int,
    map_columns: int, stride: list[int], padding: list[int], dilation: list[int], groups: int, precision: str,
    window: list[int], pool_stride: list[int], pool_padding: list[int],
) -> Tensor:  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` for images of ``rows`` x ``columns``."""
    return conv_pool.correlate2d_max_pool2d_input_grad(
        filters, winners, maps, rows, columns, map_rows, map_columns, *moves_of(stride, padding, dilation, groups),
        window, pool_stride, sides_of(pool_padding), precision=resolved(precision), memory_format=format,
    )  # fmt: skip


@custom_op("pytensor_convnet::correlate2d_max_pool2d_filter_grad", mutates_args=())
def correlate2d_max_pool2d_filter_grad(
    images: Tensor, winners: Tensor, maps: Tensor, rows: int, columns: int, format: str, map_rows: int,
    map_columns: int, stride: list[int], padding: list[int], dilation: list[int], groups: int, precision: str,
    window: list[int], pool_stride: list[int], pool_padding: list[int],
) -> Tensor:  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` for filters of ``rows`` x ``columns``."""
    return conv_pool.correlate2d_max_pool2d_filter_grad(
        images, winners, maps, rows, columns, map_rows, map_columns, *moves_of(stride, padding, dilation, groups),
        window, pool_stride, sides_of(pool_padding), precision=resolved(precision), memory_format=format,
    )  # fmt: skip


@custom_op("pytensor_convnet::correlate2d_max_pool2d_grads", mutates_args=())
def correlate2d_max_pool2d_grads(
    images: Tensor, filters: Tensor, winners: Tensor, maps: Tensor, map_rows: int, map_columns: int,
    stride: list[int], padding: list[int], dilation: list[int], groups: int, precision: str, window: list[int],
    pool_stride: list[int], pool_padding: list[int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both gradients."""
    return conv_pool.correlate2d_max_pool2d_grads(
        images, filters, winners, maps, map_rows, map_columns, *moves_of(stride, padding, dilation, groups),
        window, pool_stride, sides_of(pool_padding), precision=resolved(precision), memory_format=format_of(images),
        filter_format=filter_format_of(filters),
    )  # fmt: skip


# ------------------------------------------------------------------------ what results look like


@correlate2d_max_pool2d.register_fake
def _(
    images, filters, biases, stride, padding, dilation, groups, precision, window, pool_stride, pool_padding, partial,
    activation,
):  # fmt: skip
    maps = images.shape[0], filters.shape[0], *map_lengths(images, filters, stride, padding, dilation)
    windows = check_pool(maps, window, pool_stride, sides_of(pool_padding), not partial)
    shape = *maps[:2], windows.out_rows, windows.out_columns
    dtypes = images.dtype, winners_dtype(window)
    maxima, winners = (empty(shape, format_of(images), dtype, images.device) for dtype in dtypes)
    return maxima, winners


@correlate2d_max_pool2d_input_grad.register_fake
def _(
    filters, winners, maps, rows, columns, format, map_rows, map_columns, stride, padding, dilation, groups, precision,
    window, pool_stride, pool_padding,
):  # fmt: skip
    return empty((maps.shape[0], filters.shape[1] * groups, rows, columns), format, maps.dtype, maps.device)


@correlate2d_max_pool2d_filter_grad.register_fake
def _(
    images, winners, maps, rows, columns, format, map_rows, map_columns, stride, padding, dilation, groups, precision,
    window, pool_stride, pool_padding,
):  # fmt: skip
    shape = maps.shape[1], images.shape[1] // groups, rows, columns
    return empty(shape, format, images.dtype, images.device)


@correlate2d_max_pool2d_grads.register_fake
def _(
    images, filters, winners, maps, map_rows, map_columns, stride, padding, dilation, groups, precision, window,
    pool_stride, pool_padding,
):  # fmt: skip
    of_filters = empty(filters.shape, filter_format_of(filters), images.dtype, images.device)
    return empty(images.shape, format_of(images), images.dtype, images.device), of_filters


# -------------------------------------------------------------------------------------- gradients


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    images, filters, _, *settings, _, ctx.activation = inputs
    maxima, winners = output
    ctx.settings = settings
    ctx.lengths = map_lengths(images, filters, *settings[:3])
    ctx.save_for_backward(images, filters, maxima, winners)
    ctx.mark_non_differentiable(winners)


def _backward(ctx: Any, maps: Tensor, _: None) -> Any:
    images, filters, maxima, winners = ctx.saved_tensors
    slope = SLOPES[ctx.activation](maxima)
    maps = maps if slope is None else maps * slope
    *wants, wants_biases = ctx.needs_input_grad[:3]
    grads = _gradients(images, filters, winners, maps, (*ctx.lengths, *ctx.settings), wants)
    return *grads, maps.sum((0, 2, 3)) if wants_biases else None, *[None] * 10


def _gradients(images: Tensor, filters: Tensor, winners: Tensor, maps: Tensor, rest: Any, wants: Any) -> Any:
    """Those of images and of filters, as far as they are wanted."""
    wants_images, wants_filters = wants
    if wants_images and wants_filters:
        return correlate2d_max_pool2d_grads(images, filters, winners, maps, *rest)
    return (
        _input_grad(images, filters, winners, maps, rest) if wants_images else None,
        _filter_grad(images, filters, winners, maps, rest) if wants_filters else None,
    )


def _input_grad(images: Tensor, filters: Tensor, winners: Tensor, maps: Tensor, rest: Any) -> Tensor:
    """The gradient of images, in their format."""
    lengths = images.shape[2:]
    return correlate2d_max_pool2d_input_grad(filters, winners, maps, *lengths, format_of(images), *rest)


def _filter_grad(images: Tensor, filters: Tensor, winners: Tensor, maps: Tensor, rest: Any) -> Tensor:
    """The gradient of filters, in their format."""
    lengths = filters.shape[2:]
    return correlate2d_max_pool2d_filter_grad(images, winners, maps, *lengths, filter_format_of(filters), *rest)


def _picked(images: Tensor, filters: Tensor, winners: Tensor, rest: Any) -> Tensor:
    """Maps of the correlation at the pixels that won."""
    _, _, *moves, window, pool_stride, pool_padding = rest
    return max_pool2d_gather(correlate2d(images, filters, *moves), winners, window, pool_stride, pool_padding)


def _keep_input_grad(ctx: Any, inputs: Any, output: Any) -> None:
    filters, winners, maps, _, _, _, *ctx.rest = inputs
    ctx.save_for_backward(filters, winners, maps)


def _input_grad_backward(ctx: Any, images: Tensor) -> Any:
    filters, winners, maps = ctx.saved_tensors
    wants_filters, _, wants_maps, *_ = ctx.needs_input_grad
    of_filters = _filter_grad(images, filters, winners, maps, ctx.rest) if wants_filters else None
    of_maps = _picked(images, filters, winners, ctx.rest) if wants_maps else None
    return of_filters, None, of_maps, *[None] * 13


def _keep_filter_grad(ctx: Any, inputs: Any, output: Any) -> None:
    images, winners, maps, _, _, _, *ctx.rest = inputs
    ctx.save_for_backward(images, winners, maps)


def _filter_grad_backward(ctx: Any, filters: Tensor) -> Any:
    images, winners, maps = ctx.saved_tensors
    wants_images, _, wants_maps, *_ = ctx.needs_input_grad
    of_images = _input_grad(images, filters, winners, maps, ctx.rest) if wants_images else None
    of_maps = _picked(images, filters, winners, ctx.rest) if wants_maps else None
    return of_images, None, of_maps, *[None] * 13


def _keep_grads(ctx: Any, inputs: Any, output: Any) -> None:
    images, filters, winners, maps, *ctx.rest = inputs
    ctx.save_for_backward(images, filters, winners, maps)


def _grads_backward(ctx: Any, grad_images: Tensor, grad_filters: Tensor) -> Any:
    images, filters, winners, maps = ctx.saved_tensors
    *wants, _, wants_maps = ctx.needs_input_grad[:4]
    of_images, of_filters = _gradients(grad_images, grad_filters, winners, maps, ctx.rest, wants)
    of_maps = None
    if wants_maps:
        of_maps = _picked(grad_images, filters, winners, ctx.rest) + _picked(images, grad_filters, winners, ctx.rest)
    return of_images, of_filters, None, of_maps, *[None] * 10


correlate2d_max_pool2d.register_autograd(_backward, setup_context=_keep)
correlate2d_max_pool2d_input_grad.register_autograd(_input_grad_backward, setup_context=_keep_input_grad)
correlate2d_max_pool2d_filter_grad.register_autograd(_filter_grad_backward, setup_context=_keep_filter_grad)
correlate2d_max_pool2d_grads.register_autograd(_grads_backward, setup_context=_keep_grads)
