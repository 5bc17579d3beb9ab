"""What tests of the c01b operators share: cuda-convnet's definitions, pixel by pixel, in NumPy."""

import math

import numpy as np
import pytensor
import pytensor.tensor as pt

from tests.ops.common import PYTHON


def evaluate(outputs, mode=PYTHON):
    """The values of variables that depend on constants only."""
    return pytensor.function([], outputs, mode=mode)()


def symbols(*arrays):
    """A symbolic variable without static shape for each array."""
    return [pt.tensor(f"x{i}", dtype=array.dtype, shape=(None,) * array.ndim) for i, array in enumerate(arrays)]


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def targets(length, before, after, taps, stride):
    """How many positions a filter takes along an axis: cuda-convnet rounds up."""
    return math.ceil((length + before + after - taps) / stride) + 1


def filter_acts(images, filters, pad=0, stride=1, groups=1):
    """The maps of c01b images, one position after the other; what hangs over the edge reads zeros.

    ``filters`` are (channels // groups, rows, columns, filters), or with two axes more in front, one filter for each
    position.
    """
    (top, bottom), (left, right) = map(pair, pair(pad))
    stride = pair(stride)
    per_group, rows, columns, count = filters.shape[-4:]
    out_rows = targets(images.shape[1], top, bottom, rows, stride[0])
    out_columns = targets(images.shape[2], left, right, columns, stride[1])
    padded = np.pad(images, ((0, 0), (top, bottom + rows + stride[0]), (left, right + columns + stride[1]), (0, 0)))
    maps = np.zeros((count, out_rows, out_columns, images.shape[3]), images.dtype)
    for y in range(out_rows):
        for x in range(out_columns):
            bank = filters if filters.ndim == 4 else filters[y, x]
            window = padded[:, y * stride[0] :, x * stride[1] :][:, :rows, :columns]
            for g in range(groups):
                members = slice(g * count // groups, (g + 1) * count // groups)
                seen = window[g * per_group : (g + 1) * per_group]
                maps[members, y, x] = np.einsum("cijb,cijf->fb", seen, bank[..., members])
    return maps


def pool_windows(shape, ds, stride, start=0, outputs=0):
    """The place of each window of c01b images, and its pixels inside the images, as slices."""
    ds, stride, start, outputs = map(pair, (ds, stride, start, outputs))
    counts = [
        outputs[axis] or math.ceil((shape[axis + 1] - start[axis] - ds[axis]) / stride[axis]) + 1 for axis in range(2)
    ]
    for y in range(counts[0]):
        for x in range(counts[1]):
            begins = [start[0] + y * stride[0], start[1] + x * stride[1]]
            rows, columns = (
                slice(max(begin, 0), min(begin + size, length))
                for begin, size, length in zip(begins, ds, shape[1:3], strict=True)
            )
            yield y, x, rows, columns


def pool(images, reduce, *windows):
    """``reduce`` of the pixels of each window, (channels, pixels, batch) -> (channels, batch)."""
    places = list(pool_windows(images.shape, *windows))
    pooled = np.zeros((images.shape[0], places[-1][0] + 1, places[-1][1] + 1, images.shape[3]), images.dtype)
    for y, x, rows, columns in places:
        pixels = images[:, rows, columns]
        pooled[:, y, x] = reduce(pixels.reshape(images.shape[0], -1, images.shape[3]))
    return pooled
