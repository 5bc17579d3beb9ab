"""What every operation means, in NumPy: short, slow, obviously right.

Tests compare every kernel with these definitions; nothing else runs them.
Images are bc01 ``(batch, channels, rows, columns)``; paddings are ``((top, bottom), (left, right))``; strides,
dilations and windows are ``(rows, columns)``. Arguments are assumed to fit each other: `geometry` checks that.

Each correlation has three passes, and all are read off one equation,

    maps[b, f, y, x] = sum over c, i, j of  images[b, c, y * stride + i * dilation - top, ...] * filters[f, c, i, j]

which is linear in the images and in the filters. A pass loops over the taps ``(i, j)``; for each tap the
pixels it touches form one strided slice of the padded images (`tap_slices`), and einsum does the rest.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pytensor_convnet.geometry import Padding, Pair, correlation_length, pool_length

# ------------------------------------------------------------------------------------------------ taps


def pad(images: np.ndarray, padding: Padding, value: float = 0) -> np.ndarray:
    """``images`` inside a frame of ``value``."""
    return np.pad(images, ((0, 0), (0, 0), *padding), constant_values=value)


def unpad(images: np.ndarray, padding: Padding) -> np.ndarray:
    """The inverse of `pad`."""
    (top, bottom), (left, right) = padding
    return images[:, :, top : images.shape[2] - bottom, left : images.shape[3] - right]


def tap_slices(
    taps: Pair, counts: Sequence[int], stride: Pair, dilation: Pair = (1, 1)
) -> Iterator[tuple[int, int, tuple]]:
    """For each tap ``(i, j)`` the index of the padded pixels it touches, one for each output pixel."""

    def along(axis: int, tap: int) -> slice:
        start = tap * dilation[axis]
        return slice(start, start + (counts[axis] - 1) * stride[axis] + 1, stride[axis])

    for i in range(taps[0]):
        for j in range(taps[1]):
            yield i, j, (slice(None), slice(None), along(0, i), along(1, j))


def _flipped(filters: np.ndarray, flip: bool) -> np.ndarray:
    """Convolution is correlation with the filters turned by half a turn."""
    return filters[..., ::-1, ::-1] if flip else filters


def _map_shape(image_shape: Sequence[int], taps: Sequence[int], stride: Pair, padding: Padding, dilation: Pair) -> Pair:
    rows, columns = (
        correlation_length(image_shape[axis - 2], taps[axis - 2], stride[axis], *padding[axis], dilation[axis])
        for axis in range(2)
    )
    return rows, columns


def _grouped(array: np.ndarray, axis: int, groups: int) -> np.ndarray:
    """``axis`` split into ``(groups, axis // groups)``."""
    return array.reshape(*array.shape[:axis], groups, array.shape[axis] // groups, *array.shape[axis + 1 :])


def _merged(array: np.ndarray, axis: int) -> np.ndarray:
    """The inverse of `_grouped`: ``axis`` and the one after it as one."""
    length = array.shape[axis] * array.shape[axis + 1]
    return array.reshape(*array.shape[:axis], length, *array.shape[axis + 2 :])


# --------------------------------------------------------------------------------------- correlations


def correlate2d(images, filters, stride, padding, dilation, groups, flip):
    """Correlate ``images`` with ``filters`` ``(filters, channels // groups, rows, columns)``."""
    filters = _grouped(_flipped(filters, flip), 0, groups)
    counts = _map_shape(images.shape, filters.shape, stride, padding, dilation)
    padded = _grouped(pad(images, padding), 1, groups)
    maps = np.zeros((images.shape[0], *filters.shape[:2], *counts), images.dtype)
    for i, j, (b, g, y, x) in tap_slices(filters.shape[-2:], counts, stride, dilation):
        maps += np.einsum("bgcyx,gfc->bgfyx", padded[b, g, :, y, x], filters[..., i, j])
    return _merged(maps, 1)


def correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `correlate2d` for its images, given ``maps``, the gradient of its output."""
    filters, maps = _grouped(_flipped(filters, flip), 0, groups), _grouped(maps, 1, groups)
    channels = filters.shape[2]
    padded_rows, padded_columns = rows + sum(padding[0]), columns + sum(padding[1])
    padded = np.zeros((maps.shape[0], groups, channels, padded_rows, padded_columns), maps.dtype)
    for i, j, (b, g, y, x) in tap_slices(filters.shape[-2:], maps.shape[-2:], stride, dilation):
        padded[b, g, :, y, x] += np.einsum("bgfyx,gfc->bgcyx", maps, filters[..., i, j])
    return unpad(_merged(padded, 1), padding)


def correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `correlate2d` for its filters of ``rows`` x ``columns``."""
    padded, maps = _grouped(pad(images, padding), 1, groups), _grouped(maps, 1, groups)
    filters = np.zeros((groups, maps.shape[2], padded.shape[2], rows, columns), images.dtype)
    for i, j, (b, g, y, x) in tap_slices((rows, columns), maps.shape[-2:], stride, dilation):
        filters[..., i, j] = np.einsum("bgcyx,bgfyx->gfc", padded[b, g, :, y, x], maps)
    return _flipped(_merged(filters, 0), flip)


def locally_connected2d(images, filters, stride, padding, dilation, groups, flip):
    """Like `correlate2d`, with filters of its own for every output pixel.

    ``filters`` are ``(filters, output rows, output columns, channels // groups, rows, columns)``.
    """
    filters = _grouped(_flipped(filters, flip), 0, groups)
    counts = filters.shape[2:4]
    padded = _grouped(pad(images, padding), 1, groups)
    maps = np.zeros((images.shape[0], *filters.shape[:4]), images.dtype)
    for i, j, (b, g, y, x) in tap_slices(filters.shape[-2:], counts, stride, dilation):
        maps += np.einsum("bgcyx,gfyxc->bgfyx", padded[b, g, :, y, x], filters[..., i, j])
    return _merged(maps, 1)


def locally_connected2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `locally_connected2d` for its images."""
    filters, maps = _grouped(_flipped(filters, flip), 0, groups), _grouped(maps, 1, groups)
    channels = filters.shape[4]
    padded_rows, padded_columns = rows + sum(padding[0]), columns + sum(padding[1])
    padded = np.zeros((maps.shape[0], groups, channels, padded_rows, padded_columns), maps.dtype)
    for i, j, (b, g, y, x) in tap_slices(filters.shape[-2:], maps.shape[-2:], stride, dilation):
        padded[b, g, :, y, x] += np.einsum("bgfyx,gfyxc->bgcyx", maps, filters[..., i, j])
    return unpad(_merged(padded, 1), padding)


def locally_connected2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip):
    """The gradient of `locally_connected2d` for its filters."""
    padded, maps = _grouped(pad(images, padding), 1, groups), _grouped(maps, 1, groups)
    counts = maps.shape[-2:]
    filters = np.zeros((groups, maps.shape[2], *counts, padded.shape[2], rows, columns), images.dtype)
    for i, j, (b, g, y, x) in tap_slices((rows, columns), counts, stride, dilation):
        filters[..., i, j] = np.einsum("bgcyx,bgfyx->gfyxc", padded[b, g, :, y, x], maps)
    return _flipped(_merged(filters, 0), flip)


# ---------------------------------------------------------------------------------------------- pools


def windows(
    shape: Sequence[int], counts: Sequence[int], window: Pair, stride: Pair, padding: Padding
) -> Iterator[tuple[int, int, slice, slice, int, int]]:
    """Every pooling window: its place ``y, x``, its pixels inside the image, its origin (negative in padding)."""
    for y in range(counts[0]):
        for x in range(counts[1]):
            top, left = y * stride[0] - padding[0][0], x * stride[1] - padding[1][0]
            rows = slice(max(top, 0), min(top + window[0], shape[-2]))
            columns = slice(max(left, 0), min(left + window[1], shape[-1]))
            yield y, x, rows, columns, top, left


def _pool_counts(shape: Sequence[int], window: Pair, stride: Pair, padding: Padding, ignore_border: bool) -> Pair:
    rows, columns = (
        pool_length(shape[axis - 2], window[axis], stride[axis], *padding[axis], ignore_border) for axis in range(2)
    )
    return rows, columns


def max_pool2d(images, winners_dtype, window, stride, padding, ignore_border):
    """The maximum of every window, and its winner: the position, row-major in the window, of the maximum.

    Padding never wins, NaN does; of equal maxima the first wins.
    """
    counts = _pool_counts(images.shape, window, stride, padding, ignore_border)
    maxima = np.empty((*images.shape[:2], *counts), images.dtype)
    winners = np.empty(maxima.shape, winners_dtype)
    for y, x, rows, columns, top, left in windows(images.shape, counts, window, stride, padding):
        inside = images[:, :, rows, columns]
        taps = inside.reshape(*images.shape[:2], inside.shape[2] * inside.shape[3])
        first = taps.argmax(axis=2)  # NumPy's argmax, too, lets the first maximum win, and NaN
        maxima[:, :, y, x] = np.take_along_axis(taps, first[..., None], axis=2)[..., 0]
        i, j = np.divmod(first, inside.shape[3])
        winners[:, :, y, x] = (i + rows.start - top) * window[1] + (j + columns.start - left)
    return maxima, winners


def _winning_pixels(winners, y, x, top, left, window):
    """The image pixels that won window ``(y, x)``, as an index into bc01 images."""
    i, j = np.divmod(winners[:, :, y, x].astype(np.int64), window[1])
    b, c = np.indices(i.shape)
    return b, c, top + i, left + j


def max_pool2d_grad(winners, maps, rows, columns, window, stride, padding):
    """Scatter ``maps`` to the pixels that won: the gradient of `max_pool2d` for images of ``rows`` x ``columns``."""
    images = np.zeros((*maps.shape[:2], rows, columns), maps.dtype)
    for y, x, _, _, top, left in windows(images.shape, maps.shape[2:], window, stride, padding):
        images[_winning_pixels(winners, y, x, top, left, window)] += maps[:, :, y, x]
    return images


def max_pool2d_gather(images, winners, window, stride, padding):
    """Pick ``images`` at the pixels that won: the gradient of `max_pool2d_grad`."""
    maps = np.empty(winners.shape, images.dtype)
    for y, x, _, _, top, left in windows(images.shape, winners.shape[2:], window, stride, padding):
        maps[:, :, y, x] = images[_winning_pixels(winners, y, x, top, left, window)]
    return maps


def draw_winners2d(images, uniforms, winners_dtype, window, stride, padding):
    """Winners drawn in proportion to the positive pixels of a window, as ``uniforms``, one for each window, decide.

    The first tap wins at which the running sum exceeds ``uniforms`` times the whole sum (or reaches it, should the
    product be rounded up). A sum of zero thereby gives the first tap, one that is not finite what `max_pool2d` gives.
    """
    winners = np.empty(uniforms.shape, winners_dtype)
    for y, x, rows, columns, top, left in windows(images.shape, uniforms.shape[2:], window, stride, padding):
        inside = images[:, :, rows, columns]
        taps = inside.reshape(*images.shape[:2], inside.shape[2] * inside.shape[3])
        sums = np.maximum(taps, 0).cumsum(axis=2, dtype=images.dtype)
        total = sums[..., -1:]
        drawn = ((sums > uniforms[:, :, y, x, None] * total) | (sums == total)).argmax(axis=2)
        first = np.where(np.isfinite(total[..., 0]), drawn, taps.argmax(axis=2))
        i, j = np.divmod(first, inside.shape[3])
        winners[:, :, y, x] = (i + rows.start - top) * window[1] + (j + columns.start - left)
    return winners


def correlate2d_max_pool2d(
    images, filters, winners_dtype, stride, padding, dilation, groups, flip, window, pool_stride, pool_padding,
    ignore_border, biases, activation,
):  # fmt: skip
    """`max_pool2d` of the maps of `correlate2d`, the maxima biased and activated ('identity', 'relu' or 'tanh')."""
    maps = correlate2d(images, filters, stride, padding, dilation, groups, flip)
    maxima, winners = max_pool2d(maps, winners_dtype, window, pool_stride, pool_padding, ignore_border)
    maxima = maxima + biases[:, None, None].astype(maxima.dtype)
    return {"identity": maxima, "relu": np.maximum(maxima, 0), "tanh": np.tanh(maxima)}[activation], winners


def correlate2d_max_pool2d_input_grad(
    filters, winners, maps, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding,
):  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` for its images of ``rows`` x ``columns``.

    ``maps`` is the gradient of the maxima; the maps that were pooled have ``map_rows`` x ``map_columns``.
    """
    full = max_pool2d_grad(winners, maps, map_rows, map_columns, window, pool_stride, pool_padding)
    return correlate2d_input_grad(filters, full, rows, columns, stride, padding, dilation, groups, flip)


def correlate2d_max_pool2d_filter_grad(
    images, winners, maps, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding,
):  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` for its filters of ``rows`` x ``columns``."""
    full = max_pool2d_grad(winners, maps, map_rows, map_columns, window, pool_stride, pool_padding)
    return correlate2d_filter_grad(images, full, rows, columns, stride, padding, dilation, groups, flip)


def divisor(rows: slice, columns: slice, top: int, left: int, shape, window, padding, mode: str) -> int:
    """What the sum over a window is divided by.

    'average_exc_pad' counts the pixels inside the image, 'average_inc_pad' also those in the padding; the part
    of a partial window that hangs over both never counts.
    """
    if mode == "sum":
        return 1
    if mode == "average_exc_pad":
        return (rows.stop - rows.start) * (columns.stop - columns.start)
    bottom = min(top + window[0], shape[-2] + padding[0][1])
    right = min(left + window[1], shape[-1] + padding[1][1])
    return (bottom - top) * (right - left)


def average_pool2d(images, window, stride, padding, ignore_border, mode):
    """The sum or average of every window; ``mode`` is 'sum', 'average_inc_pad' or 'average_exc_pad'."""
    counts = _pool_counts(images.shape, window, stride, padding, ignore_border)
    maps = np.empty((*images.shape[:2], *counts), images.dtype)
    for y, x, rows, columns, top, left in windows(images.shape, counts, window, stride, padding):
        share = divisor(rows, columns, top, left, images.shape, window, padding, mode)
        maps[:, :, y, x] = images[:, :, rows, columns].sum(axis=(2, 3)) / share
    return maps


def average_pool2d_grad(maps, rows, columns, window, stride, padding, mode):
    """Spread ``maps`` over their windows: the gradient of `average_pool2d` for images of ``rows`` x ``columns``."""
    images = np.zeros((*maps.shape[:2], rows, columns), maps.dtype)
    for y, x, r, c, top, left in windows(images.shape, maps.shape[2:], window, stride, padding):
        share = divisor(r, c, top, left, images.shape, window, padding, mode)
        images[:, :, r, c] += maps[:, :, y, x, None, None] / share
    return images


def rectified_average_pool2d(images, biases, window, stride, padding, ignore_border, mode):
    """`average_pool2d` of images to which the bias of their channel was added, and which then were rectified."""
    rectified = np.maximum(images + biases[:, None, None].astype(images.dtype), 0)
    return average_pool2d(rectified, window, stride, padding, ignore_border, mode)


def rectified_average_pool2d_grad(images, biases, maps, window, stride, padding, mode):
    """The gradients of `rectified_average_pool2d` for images and biases, given ``maps``, that of the pooled maps.

    They pass where the biased image is not negative; NaN lets none pass.
    """
    shown = images + biases[:, None, None].astype(images.dtype) >= 0
    spread = average_pool2d_grad(maps, images.shape[2], images.shape[3], window, stride, padding, mode)
    images_grad = np.where(shown, spread, 0).astype(images.dtype)
    return images_grad, images_grad.sum(axis=(0, 2, 3), dtype=np.float64).astype(images.dtype)


def tanh_grad(tanhs, tanhs_grad):
    """The gradients for maps and for the biases of their channels, given that for ``tanhs``, the tanh of their sum."""
    maps_grad = tanhs_grad * (1 - tanhs * tanhs)
    return maps_grad, maps_grad.sum(axis=(0, 2, 3), dtype=np.float64).astype(tanhs.dtype)


# -------------------------------------------------------------------------------------- normalisation


def neighbours(channels: int, size: int, blocked: bool) -> np.ndarray:
    """Which maps are neighbours: a boolean matrix of which row ``f`` marks those that map ``f`` is normalised by."""
    f, g = np.arange(channels)[:, None], np.arange(channels)
    start = f // size * size if blocked else f - size // 2
    return (start <= g) & (g < start + size)


def cross_map_sum(images, size, blocked, transposed):
    """The sum of each map's neighbours; transposed, of those maps whose neighbour it is."""
    members = neighbours(images.shape[1], size, blocked)
    return np.einsum("fg,bgyx->bfyx", members.T if transposed else members, images)


def cross_map_norm(images, size, scale, power, blocked):
    """Each map divided by a power of its neighbours' energy."""
    return images * (1 + scale * cross_map_sum(images**2, size, blocked, False)) ** -power


def cross_map_norm_grad(images, maps, size, scale, power, blocked):
    """The gradient of `cross_map_norm`, given ``maps``, the gradient of its output."""
    denominators = 1 + scale * cross_map_sum(images**2, size, blocked, False)
    shares = cross_map_sum(maps * images * denominators ** (-power - 1), size, blocked, True)
    return maps * denominators**-power - 2 * scale * power * images * shares
