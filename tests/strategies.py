"""What hypothesis draws: geometries that fit, and arrays in any memory layout."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from pytensor_convnet import geometry

LAYOUTS = ("contiguous", "channels_last", "batch_last", "reversed", "spaced", "repeated")


def with_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """An array equal to ``array`` in another memory layout ('repeated' repeats the first image: a zero stride)."""
    if layout == "channels_last":
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)).transpose(0, array.ndim - 1, *range(1, array.ndim - 1))
    if layout == "batch_last":
        return np.ascontiguousarray(np.moveaxis(array, 0, -1)).transpose(array.ndim - 1, *range(array.ndim - 1))
    if layout == "reversed":
        everywhere = (slice(None, None, -1),) * array.ndim
        return np.ascontiguousarray(array[everywhere])[everywhere]
    if layout == "spaced":
        holder = np.full((*array.shape[:-1], 2 * array.shape[-1]), 7, array.dtype)
        holder[..., ::2] = array
        return holder[..., ::2]
    if layout == "repeated" and len(array):
        return np.broadcast_to(array[:1], array.shape)
    return np.ascontiguousarray(array)


@dataclass(frozen=True)
class CorrelationCase:
    """One drawn correlation: arrays for all three passes and how the filters slide."""

    images: np.ndarray
    filters: np.ndarray
    maps: np.ndarray
    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int
    flip: bool

    @property
    def window(self):
        return self.stride, self.padding, self.dilation, self.groups, self.flip

    @property
    def rows_and_columns(self):
        return self.images.shape[2:]

    @property
    def taps(self):
        return self.filters.shape[-2:]


@st.composite
def correlations(draw, *, dtype="float64", max_batch=3, unshared=False):
    """Correlations that fit: strides, asymmetric padding, dilation, groups, flips, layouts, empty batches."""
    groups = draw(st.integers(1, 3))
    batch, channels, filters = draw(st.integers(0, max_batch)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    axes = []
    for _ in range(2):
        taps, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        span = geometry.dilated_length(taps, dilation)
        length = draw(st.integers(max(1, span - before - after), max(1, span - before - after) + 6))
        count = geometry.correlation_length(length, taps, stride, before, after, dilation)
        axes.append((taps, stride, dilation, (before, after), length, count))
    taps, stride, dilation, padding, lengths, counts = zip(*axes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def array(*shape):
        return with_layout(random.standard_normal(shape).astype(dtype), draw(st.sampled_from(LAYOUTS)))

    filter_shape = (filters * groups, *(counts if unshared else ()), channels, *taps)
    return CorrelationCase(
        images=array(batch, channels * groups, *lengths),
        filters=array(*filter_shape),
        maps=array(batch, filters * groups, *counts),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        flip=draw(st.booleans()),
    )


@dataclass(frozen=True)
class PoolCase:
    """One drawn pooling: images, the gradient of the pooled maps, and how the windows slide."""

    images: np.ndarray
    maps: np.ndarray
    window: tuple
    stride: tuple
    padding: tuple
    ignore_border: bool

    @property
    def rows_and_columns(self):
        return self.images.shape[2:]

    @property
    def windows(self):
        return self.window, self.stride, self.padding


@st.composite
def pools(draw, *, dtype="float64"):
    """Poolings that fit; with many ties, since images hold few different values."""
    batch, channels = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    ignore_border = draw(st.booleans())
    axes = []
    for _ in range(2):
        window, stride = draw(st.integers(1, 5)), draw(st.integers(1, 5))
        before, after = draw(st.integers(0, window - 1)), draw(st.integers(0, window - 1))
        least = max(1, window - before - after) if ignore_border else 1
        length = draw(st.integers(least, least + 6))
        count = geometry.pool_length(length, window, stride, before, after, ignore_border)
        axes.append((window, stride, (before, after), length, count))
    window, stride, padding, lengths, counts = zip(*axes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = random.integers(-4, 5, (batch, channels, *lengths)).astype(dtype)
    maps = random.standard_normal((batch, channels, *counts))
    return PoolCase(
        images=with_layout(images, draw(st.sampled_from(LAYOUTS))),
        maps=with_layout(maps.astype(dtype) if np.dtype(dtype).kind == "f" else maps, draw(st.sampled_from(LAYOUTS))),
        window=window,
        stride=stride,
        padding=padding,
        ignore_border=ignore_border,
    )
