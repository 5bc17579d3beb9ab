"""The three passes by cuDNN, through torch: at the hardware's limit where channels are many."""

import os
from contextlib import contextmanager
from typing import Any

import torch

from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.tf32 import SETTINGS, tf32_convolutions

LAYOUTS = {"bc01": torch.contiguous_format, "channels_last": torch.channels_last}


def is_deterministic() -> bool:
    """Whether cuDNN must give the same bits in every run, unless PYTENSOR_CONVNET_DETERMINISTIC is 0."""
    return os.environ.get("PYTENSOR_CONVNET_DETERMINISTIC", "1") != "0"


@contextmanager
def _settings(precision: str):
    """cuDNN's algorithms chosen by its own measurements among those allowed; tf32 where that is precise enough."""
    settings: Any = torch.backends.cudnn
    # Not by its own `flags`, which raises where tf32 was allowed or forbidden by a precision.
    with SETTINGS, torch.backends.__allow_nonbracketed_mutation():
        before = settings.enabled, settings.benchmark, settings.deterministic
        settings.enabled, settings.benchmark, settings.deterministic = True, True, is_deterministic()
        try:
            with tf32_convolutions(precision == "medium"):
                yield
        finally:
            settings.enabled, settings.benchmark, settings.deterministic = before


def _padded(geometry: Geometry, images: torch.Tensor, layout: str) -> tuple[torch.Tensor, list[int]]:
    """Images and the padding that is left to cuDNN, which pads alike on both sides."""
    (top, bottom), (left, right) = geometry.padding
    if (top, left) == (bottom, right):
        return images, [top, left]
    padded = torch.nn.functional.pad(images, (left, right, top, bottom))
    return padded.contiguous(memory_format=LAYOUTS[layout]), [0, 0]


def _filters(geometry: Geometry, filters: torch.Tensor, layout: str) -> torch.Tensor:
    turned = filters.flip(2, 3) if geometry.flip and geometry.filters[2:] != (1, 1) else filters
    return turned.contiguous(memory_format=LAYOUTS[layout])


def _unread(shape, maps: torch.Tensor, layout: str) -> torch.Tensor:
    """What stands for the operand that a gradient does not depend on: memory that nothing is written to."""
    return torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=LAYOUTS[layout])


def _gradient(geometry, images, filters, maps, padding, precision, wanted):
    with _settings(precision):
        return torch.ops.aten.convolution_backward(
            maps, images, filters, None, list(geometry.stride), padding, list(geometry.dilation), False, [0, 0],
            geometry.groups, [wanted == "images", wanted == "filters", False],
        )[0 if wanted == "images" else 1]  # fmt: skip


def correlate2d(geometry: Geometry, images, filters, layout: str, precision: str) -> torch.Tensor:
    """The maps, in ``layout``, of images in ``layout``."""
    padded, padding = _padded(geometry, images, layout)
    with _settings(precision):
        return torch.nn.functional.conv2d(
            padded, _filters(geometry, filters, layout), None, geometry.stride, padding, geometry.dilation,
            geometry.groups,
        )  # fmt: skip


def correlate2d_input_grad(geometry: Geometry, filters, maps, layout: str, precision: str) -> torch.Tensor:
    """The gradient of the images, in ``layout``, of maps in ``layout``."""
    (top, bottom), (left, right) = geometry.padding
    batch, channels, rows, columns = geometry.images
    padding = [top, left]
    if (top, left) != (bottom, right):
        rows, columns, padding = rows + top + bottom, columns + left + right, [0, 0]
    images = _unread((batch, channels, rows, columns), maps, layout)
    result = _gradient(geometry, images, _filters(geometry, filters, layout), maps, padding, precision, "images")
    if padding != [0, 0] or result.shape == geometry.images:
        return result
    return result[:, :, top : rows - bottom, left : columns - right].contiguous(memory_format=LAYOUTS[layout])


def input_grad_as_forward(geometry: Geometry) -> Geometry | None:
    """The correlation of maps whose result is the gradient of the images, where there is one.

    With a stride of 1 it is that with filters turned by 180 degrees, their channels in the place of filters. None for
    other strides, and where maps would have to be cut, that is padded by less than nothing.
    """
    filters, channels, *taps = geometry.filters
    down, across = (gap * (count - 1) for gap, count in zip(geometry.dilation, taps))
    (top, bottom), (left, right) = geometry.padding
    padding = (down - top, down - bottom), (across - left, across - right)
    if geometry.stride != (1, 1) or min(*padding[0], *padding[1]) < 0:
        return None
    swapped = channels * geometry.groups, filters // geometry.groups, *taps
    return Geometry(geometry.maps, swapped, (1, 1), padding, geometry.dilation, geometry.groups, not geometry.flip)


def correlate2d_input_grad_as_forward(geometry: Geometry, filters, maps, layout: str, precision: str) -> torch.Tensor:
    """What `correlate2d_input_grad` gives, by cuDNN's kernels for the forward pass.

    These give the same bits in every run; not all of its kernels for the gradient do. Nor is memory of the images' size
    needed beside the result.
    """
    forward = input_grad_as_forward(geometry)
    if forward is None:
        raise ValueError(f"no forward pass gives the gradient of the images of {geometry}")
    swapped = filters.unflatten(0, (geometry.groups, -1)).transpose(1, 2).flatten(0, 1)
    return correlate2d(forward, maps, swapped, layout, precision)


def correlate2d_filter_grad(geometry: Geometry, images, maps, layout: str, precision: str) -> torch.Tensor:
    """The gradient of the filters, in ``layout``, of images and maps in it."""
    padded, padding = _padded(geometry, images, layout)
    filters = _unread(geometry.filters, maps, layout)
    result = _gradient(geometry, padded, filters, maps, padding, precision, "filters")
    return result.flip(2, 3) if geometry.flip else result
