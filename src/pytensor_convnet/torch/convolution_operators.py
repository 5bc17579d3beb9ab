"""Convolution as operators of torch: what they compute, what their results look like, and their gradients.

They are ``torch.ops.pytensor_convnet.correlate2d`` and so on; each result is linear in two operands, and the derivative
for either is one of the others. A padding is (top, bottom, left, right). Maps are in the physical format of the images,
batch-last where they have none; the gradient of images is in the format asked for, theirs, since a gradient that comes
from a sum has none; so is the gradient of filters, as torch wants that of a weight to lie as the weight does.
"""

from typing import Any

from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.geometry import Padding, correlation_length
from pytensor_convnet.kernels.cuda import correlation
from pytensor_convnet.kernels.cuda.formats import empty, memory_format
from pytensor_convnet.kernels.cuda.tf32 import allows_tf32_convolutions

DEFAULT_PRECISION = "default"
"""What torch's settings allow when an operator computes: where it is traced for a compiler, not all can be read."""


def moves_of(
    stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Any, Padding, Any, int, bool]:
    """How a filter moves, as the kernels want it; it is not turned."""
    top, bottom, left, right = padding
    return tuple(stride), ((top, bottom), (left, right)), tuple(dilation), groups, False


def resolved(precision: str) -> str:
    """A precision as the kernels know it."""
    if precision != DEFAULT_PRECISION:
        return precision
    return "medium" if allows_tf32_convolutions() else "ieee"


def format_of(images: Tensor) -> str:
    """The physical format of maps, and of the gradient of the images."""
    return memory_format(images) or "batch_last"


def filter_format_of(filters: Tensor) -> str:
    """The physical format of the gradient of filters."""
    return memory_format(filters) or "bc01"


def map_lengths(images: Tensor, filters: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> Any:
    """Rows and columns of the maps."""
    top, bottom, left, right = padding
    return (
        correlation_length(images.shape[2], filters.shape[2], stride[0], top, bottom, dilation[0]),
        correlation_length(images.shape[3], filters.shape[3], stride[1], left, right, dilation[1]),
    )


@custom_op("pytensor_convnet::correlate2d", mutates_args=())
def correlate2d(
    images: Tensor, filters: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    precision: str,
) -> Tensor:  # fmt: skip
    """Images correlated with filters; see `kernels.cuda.correlation.correlate2d`."""
    return correlation.correlate2d(
        images, filters, *moves_of(stride, padding, dilation, groups), precision=resolved(precision)
    )


@custom_op("pytensor_convnet::correlate2d_input_grad", mutates_args=())
def correlate2d_input_grad(
    filters: Tensor, maps: Tensor, rows: int, columns: int, format: str, stride: list[int], padding: list[int],
    dilation: list[int], groups: int, precision: str,
) -> Tensor:  # fmt: skip
    """The gradient of `correlate2d` for images of ``rows`` x ``columns``."""
    moves = moves_of(stride, padding, dilation, groups)
    return correlation.correlate2d_input_grad(
        filters, maps, rows, columns, *moves, precision=resolved(precision), memory_format=format
    )


@custom_op("pytensor_convnet::correlate2d_filter_grad", mutates_args=())
def correlate2d_filter_grad(
    images: Tensor, maps: Tensor, rows: int, columns: int, format: str, stride: list[int], padding: list[int],
    dilation: list[int], groups: int, precision: str,
) -> Tensor:  # fmt: skip
    """The gradient of `correlate2d` for filters of ``rows`` x ``columns``."""
    moves = moves_of(stride, padding, dilation, groups)
    return correlation.correlate2d_filter_grad(
        images, maps, rows, columns, *moves, precision=resolved(precision), memory_format=format
    )


@custom_op("pytensor_convnet::correlate2d_grads", mutates_args=())
def correlate2d_grads(
    images: Tensor, filters: Tensor, maps: Tensor, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both gradients, which read maps that are prepared once."""
    moves = moves_of(stride, padding, dilation, groups)
    return correlation.correlate2d_grads(
        images, filters, maps, *moves, precision=resolved(precision), memory_format=format_of(images),
        filter_format=filter_format_of(filters),
    )  # fmt: skip


# ------------------------------------------------------------------------ what results look like


@correlate2d.register_fake
def _(images, filters, stride, padding, dilation, groups, precision):
    shape = images.shape[0], filters.shape[0], *map_lengths(images, filters, stride, padding, dilation)
    return empty(shape, format_of(images), images.dtype, images.device)


@correlate2d_input_grad.register_fake
def _(filters, maps, rows, columns, format, stride, padding, dilation, groups, precision):
    return empty((maps.shape[0], filters.shape[1] * groups, rows, columns), format, maps.dtype, maps.device)


@correlate2d_filter_grad.register_fake
def _(images, maps, rows, columns, format, stride, padding, dilation, groups, precision):
    shape = maps.shape[1], images.shape[1] // groups, rows, columns
    return empty(shape, format, images.dtype, images.device)


@correlate2d_grads.register_fake
def _(images, filters, maps, stride, padding, dilation, groups, precision):
    of_filters = empty(filters.shape, filter_format_of(filters), images.dtype, images.device)
    return empty(images.shape, format_of(images), images.dtype, images.device), of_filters


# -------------------------------------------------------------------------------------- gradients


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    first, second, *ctx.settings = inputs
    ctx.save_for_backward(first, second)


def _grad_of(images: Tensor, filters: Tensor, maps: Tensor, settings: Any) -> Tensor:
    """The gradient of images, in their format."""
    return correlate2d_input_grad(filters, maps, *images.shape[2:], format_of(images), *settings)


def _filter_grad_of(images: Tensor, filters: Tensor, maps: Tensor, settings: Any) -> Tensor:
    """The gradient of filters, in their format."""
    return correlate2d_filter_grad(images, maps, *filters.shape[2:], filter_format_of(filters), *settings)


def _gradients(images: Tensor, filters: Tensor, maps: Tensor, settings: Any, wants: Any) -> Any:
    """Those of images and of filters, as far as they are wanted."""
    wants_images, wants_filters = wants
    if wants_images and wants_filters:
        return correlate2d_grads(images, filters, maps, *settings)
    return (
        _grad_of(images, filters, maps, settings) if wants_images else None,
        _filter_grad_of(images, filters, maps, settings) if wants_filters else None,
    )


def _correlate_backward(ctx: Any, maps: Tensor) -> Any:
    images, filters = ctx.saved_tensors
    return *_gradients(images, filters, maps, ctx.settings, ctx.needs_input_grad[:2]), *[None] * 5


def _input_grad_backward(ctx: Any, images: Tensor) -> Any:
    filters, maps = ctx.saved_tensors
    _, _, _, *settings = ctx.settings
    wants_filters, wants_maps, *_ = ctx.needs_input_grad
    return (
        _filter_grad_of(images, filters, maps, settings) if wants_filters else None,
        correlate2d(images, filters, *settings) if wants_maps else None,
        *[None] * 8,
    )


def _filter_grad_backward(ctx: Any, filters: Tensor) -> Any:
    images, maps = ctx.saved_tensors
    _, _, _, *settings = ctx.settings
    wants_images, wants_maps, *_ = ctx.needs_input_grad
    return (
        _grad_of(images, filters, maps, settings) if wants_images else None,
        correlate2d(images, filters, *settings) if wants_maps else None,
        *[None] * 8,
    )


def _keep_grads(ctx: Any, inputs: Any, output: Any) -> None:
    images, filters, maps, *ctx.settings = inputs
    ctx.save_for_backward(images, filters, maps)


def _grads_backward(ctx: Any, grad_images: Tensor, grad_filters: Tensor) -> Any:
    images, filters, maps = ctx.saved_tensors
    *wants, wants_maps = ctx.needs_input_grad[:3]
    of_images, of_filters = _gradients(grad_images, grad_filters, maps, ctx.settings, wants)
    of_maps = None
    if wants_maps:
        of_maps = correlate2d(grad_images, filters, *ctx.settings) + correlate2d(images, grad_filters, *ctx.settings)
    return of_images, of_filters, of_maps, *[None] * 5


correlate2d.register_autograd(_correlate_backward, setup_context=_keep)
correlate2d_input_grad.register_autograd(_input_grad_backward, setup_context=_keep)
correlate2d_filter_grad.register_autograd(_filter_grad_backward, setup_context=_keep)
correlate2d_grads.register_autograd(_grads_backward, setup_context=_keep_grads)
