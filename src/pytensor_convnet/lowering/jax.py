"""PyTensor's JAX backend: each Op as operations of JAX, for XLA to fuse and to run wherever JAX does.

Convolutions are `jax.lax.conv_general_dilated`, and their gradients its transposes, which JAX derives. Pools are those
of `arrays.pooling`. JAX compiles a function for the shapes it is called with, so everything that shapes depend on must
be known by then: constants and what follows from shapes (`rewriting.lengths` sees to that), but no values.
"""

from itertools import product
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback
from pytensor.link.jax.dispatch import jax_funcify

from pytensor_convnet.kernels.collectives import all_mean_of_arrays
from pytensor_convnet.lowering.arrays.library import Library, gradients_of
from pytensor_convnet.lowering.arrays.operations import register, register_lengths
from pytensor_convnet.reference import tap_slices

_PRECISION = lax.Precision.HIGHEST
"""Else a GPU multiplies float32 as tf32 and a TPU as bfloat16."""

_MOST_TAPS = 64
"""Up to so many taps, and phases, the gradient of max pooling is a sum over them; beyond, it is scattered."""


def _turned(filters, flip):
    return filters[..., ::-1, ::-1] if flip else filters


def _correlate2d(images, filters, stride, padding, dilation, groups, flip):
    return lax.conv_general_dilated(
        images,
        _turned(filters, flip),
        stride,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
        precision=_PRECISION,
    )


def _locally_connected2d(images, filters, stride, padding, dilation, groups, flip):
    count, *counts = filters.shape[:3]
    filters = _turned(filters, flip).reshape((groups, count // groups, *filters.shape[1:]))
    padded = jnp.pad(images, ((0, 0), (0, 0), *padding))
    padded = padded.reshape((len(images), groups, images.shape[1] // groups, *padded.shape[2:]))
    maps = sum(
        jnp.einsum("bgcyx,gfyxc->bgfyx", padded[..., y, x], filters[..., i, j], precision=_PRECISION)
        for i, j, (*_, y, x) in tap_slices(filters.shape[-2:], counts, stride, dilation)
    )
    return maps.reshape((len(images), count, *counts))


def _transpose(function, shape, maps):
    [gradient] = jax.linear_transpose(function, jax.ShapeDtypeStruct(shape, maps.dtype))(maps)
    return gradient


def _max_pool2d_grad(arrays, winners, maps, rows, columns, windows):
    """Scatter ``maps`` to the pixels that won, by a sum over taps.

    Pixels that are a stride apart are the same taps of neighbouring windows. Each such phase is made on its own, of
    whole maps moved by whole windows; in images phases then lie between one another.
    """
    down, across = windows
    winners = arrays.cast(winners, "int32")
    counts = [-(-(length + axis.before) // axis.stride) for axis, length in zip(windows, (rows, columns))]

    def phase(first_row, first_column):
        taps = [range(first, axis.window, axis.stride) for axis, first in zip(windows, (first_row, first_column))]
        pixels = jnp.zeros((*maps.shape[:2], *counts), maps.dtype)
        for i, j in product(*taps):
            won = jnp.where(winners == i * across.window + j, maps, 0)
            moved = arrays.cut(won, 2, -(i // down.stride), counts[0], 0)
            pixels += arrays.cut(moved, 3, -(j // across.stride), counts[1], 0)
        return pixels

    phases = [[phase(i, j) for j in range(across.stride)] for i in range(down.stride)]
    images = jnp.stack([jnp.stack(line, axis=4) for line in phases], axis=3)  # b c y i x j
    images = images.reshape((*maps.shape[:2], counts[0] * down.stride, counts[1] * across.stride))
    return arrays.cut(arrays.cut(images, 2, down.before, rows, 0), 3, across.before, columns, 0)


class _Jax(Library):
    """JAX's arrays."""

    def integers(self, value, name):
        try:
            return np.asarray(value).tolist()
        except jax.errors.TracerArrayConversionError as error:
            raise ValueError(
                f"{name} must be constant, or follow from shapes alone, in mode JAX: the shape of a result depends on "
                "it, and JAX compiles a function before it has values"
            ) from error

    def where(self, condition, x, y):
        return jnp.where(condition, x, y)

    def isfinite(self, tensor):
        return jnp.isfinite(tensor)

    def arange(self, count):
        return jnp.arange(count, dtype="int32")

    def cast(self, tensor, dtype):
        return jnp.asarray(tensor, jax.dtypes.canonicalize_dtype(dtype))

    def lowest(self, tensor):
        if tensor.dtype == bool:
            return False
        return -np.inf if jnp.issubdtype(tensor.dtype, jnp.floating) else jnp.iinfo(tensor.dtype).min

    def cut(self, tensor, axis, start, length, outside):
        ends = [(0, 0, 0)] * tensor.ndim
        ends[axis] = (-start, start + length - tensor.shape[axis], 0)
        return lax.pad(tensor, jnp.asarray(outside, tensor.dtype), ends)

    def repeat(self, tensor, axis, times):
        return jnp.repeat(tensor, times, axis)

    def pick(self, planes, places):
        return jnp.take_along_axis(planes, places, axis=2)

    def scatter(self, values, places, pixels):
        b, c = (jnp.arange(count) for count in values.shape[:2])
        planes = jnp.zeros((*values.shape[:2], pixels), values.dtype)
        return planes.at[b[:, None, None], c[:, None], places].add(values, mode="drop")

    def max_pool2d_grad(self, winners, maps, rows, columns, windows):
        if prod(max(axis.window, axis.stride) for axis in windows) > _MOST_TAPS:
            return super().max_pool2d_grad(winners, maps, rows, columns, windows)
        return _max_pool2d_grad(self, winners, maps, rows, columns, windows)

    def all_mean(self, tensors):
        def means(*tensors):
            return tuple(all_mean_of_arrays([np.asarray(tensor) for tensor in tensors]))

        # Ordered, since other processes take their part in the order in which the graph has them.
        return io_callback(means, tuple(jax.typeof(tensor) for tensor in tensors), *tensors, ordered=True)

    correlate2d = staticmethod(_correlate2d)
    correlate2d_input_grad, correlate2d_filter_grad = gradients_of(_correlate2d, _transpose, False)
    locally_connected2d = staticmethod(_locally_connected2d)
    locally_connected2d_input_grad, locally_connected2d_filter_grad = gradients_of(
        _locally_connected2d, _transpose, True
    )


register(jax_funcify, _Jax())
register_lengths(jax_funcify)
