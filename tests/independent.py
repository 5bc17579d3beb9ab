"""Convolution and pooling by SciPy: an implementation that shares nothing with ours, to compare with.

Strides become subsampling of a dense result, dilation becomes zeros between taps, a stride's adjoint becomes
zeros between pixels; what is left is `scipy.signal.correlate2d`, `scipy.signal.convolve2d` and
`scipy.ndimage`'s filters.
"""

import numpy as np
from scipy import ndimage, signal


def spread(array, distances):
    """Zeros between the elements of the last two axes, which come to lie ``distances`` apart."""
    rows, columns = ((length - 1) * d + 1 for length, d in zip(array.shape[-2:], distances))
    result = np.zeros((*array.shape[:-2], max(rows, 0), max(columns, 0)), array.dtype)
    result[..., :: distances[0], :: distances[1]] = array
    return result


def pad(images, padding):
    return np.pad(images, ((0, 0), (0, 0), *padding))


def channel_pairs(number_of_filters, channels_per_group, groups):
    """(filter, channel in the filter, channel of the image) for everything that touches."""
    per_group = number_of_filters // groups
    for f in range(number_of_filters):
        for k in range(channels_per_group):
            yield f, k, f // per_group * channels_per_group + k


def correlate2d(images, filters, stride, padding, dilation, groups, flip):
    taps = spread(filters[..., ::-1, ::-1] if flip else filters, dilation)
    padded = pad(images, padding)
    maps = None
    for f, k, c in channel_pairs(filters.shape[0], filters.shape[1], groups):
        for b in range(images.shape[0]):
            part = signal.correlate2d(padded[b, c], taps[f, k], "valid")[:: stride[0], :: stride[1]]
            if maps is None:
                maps = np.zeros((images.shape[0], filters.shape[0], *part.shape), images.dtype)
            maps[b, f] += part
    return maps


def correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    taps = spread(filters[..., ::-1, ::-1] if flip else filters, dilation)
    (top, bottom), (left, right) = padding
    padded = np.zeros((maps.shape[0], filters.shape[1] * groups, rows + top + bottom, columns + left + right))
    dense = spread(maps, stride)
    for f, k, c in channel_pairs(filters.shape[0], filters.shape[1], groups):
        for b in range(maps.shape[0]):
            part = signal.convolve2d(dense[b, f], taps[f, k], "full")
            padded[b, c, : part.shape[0], : part.shape[1]] += part
    return padded[:, :, top : top + rows, left : left + columns]


def correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    padded, dense = pad(images, padding), spread(maps, stride)
    filters = np.zeros((maps.shape[1], images.shape[1] // groups, rows, columns))
    for f, k, c in channel_pairs(*filters.shape[:2], groups):
        for b in range(images.shape[0]):
            part = signal.correlate2d(padded[b, c], dense[b, f], "valid")[:: dilation[0], :: dilation[1]]
            filters[f, k] += part[:rows, :columns]
    return filters[..., ::-1, ::-1] if flip else filters


def pool2d(images, window, stride, padding, mode):
    """Pooling without partial windows (pad further, and crop, for those)."""
    value = -np.inf if mode == "max" else 0.0
    padded = np.pad(images, ((0, 0), (0, 0), *padding), constant_values=value)
    origin = [-(w // 2) for w in window]  # makes SciPy's centred window start at each pixel
    counts = [(n - w) // s + 1 for n, w, s in zip(padded.shape[2:], window, stride)]

    def slide(function, planes):
        dense = function(planes, size=(1, 1, *window), origin=(0, 0, *origin), mode="constant")
        return dense[:, :, :: stride[0], :: stride[1]][:, :, : counts[0], : counts[1]]

    if mode == "max":
        return slide(ndimage.maximum_filter, padded)
    means = slide(ndimage.uniform_filter, padded)
    if mode == "sum":
        return means * (window[0] * window[1])
    if mode == "average_inc_pad":
        return means
    return means / slide(ndimage.uniform_filter, np.pad(np.ones_like(images), ((0, 0), (0, 0), *padding)))
