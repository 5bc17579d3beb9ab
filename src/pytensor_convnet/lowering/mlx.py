"""PyTensor's MLX backend: each Op as operations of MLX, on Apple's GPUs, or on a CPU.

Convolutions are `mlx.core.conv_general`, which has channels last, and their gradients its vector-Jacobian products,
which MLX derives. Pools are those of `arrays.pooling`. PyTensor's linker lets MLX compile a function for the shapes it
is called with, so everything that shapes depend on must be known by then: constants and what follows from shapes.
"""

import mlx.core as mx
import numpy as np
from pytensor.link.mlx.dispatch import mlx_funcify
from pytensor.link.mlx.dispatch.basic import convert_dtype_to_mlx

from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels.collectives import process_count
from pytensor_convnet.lowering.arrays.library import Library, gradients_of
from pytensor_convnet.lowering.arrays.operations import register, register_lengths
from pytensor_convnet.reference import tap_slices


def _correlate2d(images, filters, stride, padding, dilation, groups, flip):
    # MLX's convolutions round float64 to float32, and divide by the number of images.
    if images.dtype == mx.float64 or images.size == 0:
        return _correlate_by_taps("bgcyx,gfc->bgfyx", images, filters, stride, padding, dilation, groups, flip)
    maps = mx.conv_general(
        images.transpose(0, 2, 3, 1),
        filters.transpose(0, 2, 3, 1),
        stride=stride,
        padding=tuple(list(ends) for ends in zip(*padding)),
        kernel_dilation=dilation,
        groups=groups,
        flip=flip,
    )
    return maps.transpose(0, 3, 1, 2)


def _locally_connected2d(images, filters, *sliding):
    return _correlate_by_taps("bgcyx,gfyxc->bgfyx", images, filters, *sliding)


def _correlate_by_taps(product, images, filters, stride, padding, dilation, groups, flip):
    """A sum over taps of ``product``, of the pixels under a tap and all filters' weights there."""
    filters = filters[..., ::-1, ::-1] if flip else filters
    taps, count = filters.shape[-2:], len(filters)
    counts = [
        correlation_length(length, n, step, before, after, apart)
        for length, n, step, (before, after), apart in zip(images.shape[2:], taps, stride, padding, dilation)
    ]
    shape = len(images), count, *counts
    if images.size == 0:
        return mx.zeros(shape, images.dtype)
    padded = mx.pad(images, ((0, 0), (0, 0), *padding))
    padded = padded.reshape((len(images), groups, images.shape[1] // groups, *padded.shape[2:]))
    filters = filters.reshape((groups, count // groups, *filters.shape[1:]))
    maps = sum(
        mx.einsum(product, padded[..., y, x], filters[..., i, j])
        for i, j, (*_, y, x) in tap_slices(taps, counts, stride, dilation)
    )
    return maps.reshape(shape)


def _transpose(function, shape, maps):
    _, [gradient] = mx.vjp(function, [mx.zeros(shape, maps.dtype)], [maps])
    return gradient


class _Mlx(Library):
    """MLX's arrays."""

    def integers(self, value, name):
        try:
            return np.asarray(value).tolist()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{name} must be constant, or follow from shapes alone, in mode MLX: the shape of a result depends on "
                "it, and MLX compiles a function before it has values"
            ) from error

    def where(self, condition, x, y):
        return mx.where(condition, x, y)

    def isfinite(self, tensor):
        return mx.isfinite(tensor)

    def arange(self, count):
        return mx.arange(count, dtype=mx.int32)

    def cast(self, tensor, dtype):
        return mx.array(tensor).astype(convert_dtype_to_mlx(dtype))

    def lowest(self, tensor):
        if tensor.dtype == mx.bool_:
            return False
        return -np.inf if mx.issubdtype(tensor.dtype, mx.floating) else mx.iinfo(tensor.dtype).min

    def cut(self, tensor, axis, start, length, outside):
        count = tensor.shape[axis]
        places = slice(min(max(start, 0), count), min(max(start + length, 0), count))
        inside = tensor[(slice(None),) * axis + (places,)]
        ends = [(0, 0)] * tensor.ndim
        before = min(max(-start, 0), length)
        ends[axis] = before, length - before - inside.shape[axis]
        return mx.pad(inside, ends, constant_values=mx.array(outside, tensor.dtype))

    def repeat(self, tensor, axis, times):
        return mx.repeat(tensor, times, axis)

    # MLX checks no places, so those that are no pixels are led to the first one.

    def pick(self, planes, places):
        exists = (places >= 0) & (places < planes.shape[2])
        return mx.where(exists, mx.take_along_axis(planes, mx.where(exists, places, 0), axis=2), 0)

    def scatter(self, values, places, pixels):
        planes = mx.zeros((*values.shape[:2], pixels), values.dtype)
        if values.size == 0:
            return planes
        exists = (places >= 0) & (places < pixels)
        b, c = (mx.arange(count) for count in values.shape[:2])
        there = b[:, None, None], c[:, None], mx.where(exists, places, 0)
        return planes.at[there].add(mx.where(exists, values, 0))

    def all_mean(self, tensors):
        if process_count() > 1:
            raise NotImplementedError("mode MLX takes no means over processes: train in mode NUMBA or CUDA")
        return tensors

    correlate2d = staticmethod(_correlate2d)
    correlate2d_input_grad, correlate2d_filter_grad = gradients_of(_correlate2d, _transpose, False)
    locally_connected2d = staticmethod(_locally_connected2d)
    locally_connected2d_input_grad, locally_connected2d_filter_grad = gradients_of(
        _locally_connected2d, _transpose, True
    )


register(mlx_funcify, _Mlx())
register_lengths(mlx_funcify)
