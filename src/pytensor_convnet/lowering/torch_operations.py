"""Our operations in torch's own: for PyTensor's PyTorch backend, and for what has no Triton kernel in mode CUDA.

Correlations are ATen's; every other function is `reference`'s definition, with torch where that has NumPy.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytensor_convnet import reference
from pytensor_convnet.geometry import Padding, Pair
from pytensor_convnet.ops.conv_pool import NO_TAP
from pytensor_convnet.reference import tap_slices


def _flipped(filters: Tensor, flip: bool) -> Tensor:
    return filters.flip(-2, -1) if flip else filters


def _padded(images: Tensor, padding: Padding) -> Tensor:
    (top, bottom), (left, right) = padding
    return F.pad(images, (left, right, top, bottom)) if any((top, bottom, left, right)) else images


def _unpadded(images: Tensor, padding: Padding) -> Tensor:
    (top, bottom), (left, right) = padding
    return images[:, :, top : images.shape[2] - bottom, left : images.shape[3] - right]


def _split(padding: Padding) -> tuple[Padding, list[int]]:
    """What must be padded first, and the padding that is left: the same before and after, so that ATen does it."""
    (top, bottom), (left, right) = padding
    down, across = min(top, bottom), min(left, right)
    return ((top - down, bottom - down), (left - across, right - across)), [down, across]


def correlate2d(
    images: Tensor, filters: Tensor, stride: Pair, padding: Padding, dilation: Pair, groups: int, flip: bool
) -> Tensor:
    """See `reference.correlate2d`."""
    frame, left_over = _split(padding)
    return F.conv2d(_padded(images, frame), _flipped(filters, flip), None, stride, left_over, dilation, groups)


def correlate2d_input_grad(
    filters: Tensor, maps: Tensor, rows: int, columns: int, stride: Pair, padding: Padding, dilation: Pair,
    groups: int, flip: bool,
) -> Tensor:  # fmt: skip
    """See `reference.correlate2d_input_grad`."""
    frame, left_over = _split(padding)
    shape = (maps.shape[0], filters.shape[1] * groups, rows + sum(frame[0]), columns + sum(frame[1]))
    images = maps.new_empty(1).expand(shape)  # only the shape is read
    padded = _backward(maps, images, _flipped(filters, flip), stride, left_over, dilation, groups, 0)
    return _unpadded(padded, frame)


def correlate2d_filter_grad(
    images: Tensor, maps: Tensor, rows: int, columns: int, stride: Pair, padding: Padding, dilation: Pair,
    groups: int, flip: bool,
) -> Tensor:  # fmt: skip
    """See `reference.correlate2d_filter_grad`."""
    frame, left_over = _split(padding)
    filters = maps.new_empty(1).expand(maps.shape[1], images.shape[1] // groups, rows, columns)
    padded = _padded(images, frame)
    return _flipped(_backward(maps, padded, filters, stride, left_over, dilation, groups, 1), flip)


def _backward(
    maps: Tensor, images: Tensor, filters: Tensor, stride: Pair, padding: list[int], dilation: Pair, groups: int,
    which: int,
) -> Tensor:  # fmt: skip
    """The gradient of a correlation for images (0) or filters (1)."""
    wanted = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        maps, images, filters, None, list(stride), padding, list(dilation), False, [0, 0], groups, wanted
    )[which]


def activated(maxima: Tensor, winners: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The maxima and winners of a `CorrelateMaxPool2d` after biases; tanh is for float32, which has a kernel."""
    if activation == "muting_relu":
        winners = torch.where(maxima >= 0, winners, torch.full_like(winners, NO_TAP))
    return (maxima if activation == "identity" else maxima.clamp(min=0)), winners


# --------------------------------------------------------------------------------- filters not shared


def _grouped(tensor: Tensor, axis: int, groups: int) -> Tensor:
    return tensor.unflatten(axis, (groups, tensor.shape[axis] // groups))


def locally_connected2d(
    images: Tensor, filters: Tensor, stride: Pair, padding: Padding, dilation: Pair, groups: int, flip: bool
) -> Tensor:
    """See `reference.locally_connected2d`."""
    filters = _grouped(_flipped(filters, flip), 0, groups)
    padded = _grouped(_padded(images, padding), 1, groups)
    maps = images.new_zeros((images.shape[0], *filters.shape[:4]))
    for i, j, (b, g, y, x) in tap_slices(filters.shape[-2:], filters.shape[2:4], stride, dilation):
        maps = maps + torch.einsum("bgcyx,gfyxc->bgfyx", padded[b, g, :, y, x], filters[..., i, j])
    return maps.flatten(1, 2)


def locally_connected2d_input_grad(
    filters: Tensor, maps: Tensor, rows: int, columns: int, stride: Pair, padding: Padding, dilation: Pair,
    groups: int, flip: bool,
) -> Tensor:  # fmt: skip
    """See `reference.locally_connected2d_input_grad`."""
    filters, maps = _grouped(_flipped(filters, flip), 0, groups), _grouped(maps, 1, groups)
    padded_lengths = (rows + sum(padding[0]), columns + sum(padding[1]))
    padded = maps.new_zeros((maps.shape[0], groups, filters.shape[4], *padded_lengths))
    for i, j, (b, g, y, x) in tap_slices(filters.shape[-2:], maps.shape[-2:], stride, dilation):
        padded[b, g, :, y, x] += torch.einsum("bgfyx,gfyxc->bgcyx", maps, filters[..., i, j])
    return _unpadded(padded.flatten(1, 2), padding)


def locally_connected2d_filter_grad(
    images: Tensor, maps: Tensor, rows: int, columns: int, stride: Pair, padding: Padding, dilation: Pair,
    groups: int, flip: bool,
) -> Tensor:  # fmt: skip
    """See `reference.locally_connected2d_filter_grad`."""
    padded, maps = _grouped(_padded(images, padding), 1, groups), _grouped(maps, 1, groups)
    filters = images.new_zeros((groups, maps.shape[2], *maps.shape[-2:], padded.shape[2], rows, columns))
    for i, j, (b, g, y, x) in tap_slices((rows, columns), maps.shape[-2:], stride, dilation):
        filters[..., i, j] = torch.einsum("bgcyx,bgfyx->gfyxc", padded[b, g, :, y, x], maps)
    return _flipped(filters.flatten(0, 1), flip)


# ------------------------------------------------------------------------------------- drawn, summed


def draw_winners2d(
    images: Tensor, uniforms: Tensor, winners_dtype: torch.dtype, window: Pair, stride: Pair, padding: Padding
) -> Tensor:
    """See `reference.draw_winners2d`; of all windows at once, with the taps along an axis."""
    (top, _), (left, _) = padding
    rows, columns = uniforms.shape[2:]
    # Padded on the far sides by as much as the last window needs.
    below = max(0, (rows - 1) * stride[0] + window[0] - top - images.shape[2])
    beyond = max(0, (columns - 1) * stride[1] + window[1] - left - images.shape[3])
    frame = ((top, below), (left, beyond))
    lowest = F.pad(images, (left, beyond, top, below), value=-torch.inf)
    inside = _taps(_padded(torch.ones_like(images), frame), window, stride, rows, columns) > 0
    taps = _taps(lowest, window, stride, rows, columns)
    sums = torch.cumsum(torch.clamp(torch.where(inside, taps, 0), min=0), dim=4)
    total = sums[..., -1:]
    reached = inside & ((sums > uniforms[..., None] * total) | (sums == total))
    drawn = reached.to(torch.uint8).argmax(dim=4)
    first = torch.where(torch.isfinite(total[..., 0]), drawn, taps.argmax(dim=4))
    return first.to(winners_dtype)


def _taps(padded: Tensor, window: Pair, stride: Pair, rows: int, columns: int) -> Tensor:
    """The pixels of every window, (batch, channels, rows, columns, taps)."""
    parts = [padded[index] for *_, index in tap_slices(window, (rows, columns), stride)]
    return torch.stack(parts, dim=4)


def cross_map_sum(images: Tensor, size: int, blocked: bool, transposed: bool) -> Tensor:
    """See `reference.cross_map_sum`."""
    members: Any = reference.neighbours(images.shape[1], size, blocked)
    matrix = torch.tensor(members.T.tolist() if transposed else members.tolist(), dtype=images.dtype)
    return torch.einsum("fg,bgyx->bfyx", matrix.to(images.device), images)
