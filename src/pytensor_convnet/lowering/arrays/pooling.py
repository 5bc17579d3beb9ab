"""Pooling by operations on whole tensors that array libraries have, and whose compilers fuse them.

Windows are taken apart into columns and rows: pooling ``R x C`` taps is a chain of ``R + C`` slices, and the gradient
of averages a sum of ``ceil(R / stride) + ceil(C / stride)`` repetitions. Nothing is larger than images. Functions are
`reference`'s of the same name.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pytensor_convnet.geometry import Padding, Pair, pool_length
from pytensor_convnet.lowering.arrays.base import Arrays

# -------------------------------------------------------------------------------------------- windows


class Axis(NamedTuple):
    """Windows along one axis of bc01 images, ``number`` 2 or 3."""

    number: int
    window: int
    stride: int
    before: int
    after: int

    def vector(self, numbers: Any) -> Any:
        """A vector so that it runs along this axis."""
        return numbers[:, None] if self.number == 2 else numbers

    def taps(self, arrays: Arrays, tensor: Any, count: int, outside: Any = 0) -> Iterator[Any]:
        """For each tap of ``count`` windows, the pixels under it."""
        reached = arrays.cut(tensor, self.number, -self.before, (count - 1) * self.stride + self.window, outside)
        for tap in range(self.window):
            taken = slice(tap, tap + (count - 1) * self.stride + 1, self.stride)
            yield reached[:, :, taken] if self.number == 2 else reached[:, :, :, taken]

    def inside(self, arrays: Arrays, tap: int, count: int, length: int) -> Any:
        """Of which windows a tap is inside an image of ``length``."""
        pixel = arrays.arange(count) * self.stride + (tap - self.before)
        return self.vector((pixel >= 0) & (pixel < length))

    def first_tap_inside(self, arrays: Arrays, count: int) -> Any:
        """For each of so many windows, its first tap that is not in the padding."""
        in_padding = self.before - arrays.arange(count) * self.stride
        return self.vector(arrays.where(in_padding > 0, in_padding, 0))

    def holders(self, arrays: Arrays, length: int) -> Iterator[tuple[int, Any]]:
        """The windows that may hold the pixels of an image of ``length``, and which taps these are there.

        For each, what `on_pixels` is to start from. A window does not hold a pixel that were a tap beyond it.
        """
        tap = (arrays.arange(length) + self.before) % self.stride
        for earlier in range(0, self.window, self.stride):
            yield self.before - earlier, self.vector(tap + earlier)

    def on_pixels(self, arrays: Arrays, pooled: Any, start: int, length: int) -> Any:
        """What windows have, on the pixels of an image of ``length``; zero where there is no window."""
        return arrays.cut(arrays.repeat(pooled, self.number, self.stride), self.number, start, length, 0)

    def counted(self, arrays: Arrays, count: int, length: int, mode: str) -> Any:
        """By how many taps each of ``count`` windows divides its sum; see `reference.divisor`."""
        start, end = arrays.arange(count) * self.stride - self.before, length
        stop = start + self.window
        if mode == "average_inc_pad":
            end = length + self.after
        else:
            start = arrays.where(start > 0, start, 0)
        return self.vector(arrays.where(stop < end, stop, end) - start)


Windows = tuple[Axis, Axis]
"""Windows along rows and along columns."""


def windows_of(window: Pair, stride: Pair, padding: Padding) -> Windows:
    """Windows as the functions here take them."""
    return Axis(2, window[0], stride[0], *padding[0]), Axis(3, window[1], stride[1], *padding[1])


def pooled_lengths(images: Any, windows: Windows, ignore_border: bool) -> Pair:
    """How many windows there are, down and across."""
    down, across = (
        pool_length(images.shape[axis.number], axis.window, axis.stride, axis.before, axis.after, ignore_border)
        for axis in windows
    )
    return down, across


# ---------------------------------------------------------------------------------------- max pooling


def max_pool2d(arrays: Arrays, images: Any, winners_dtype: str, counts: Pair, windows: Windows) -> tuple[Any, Any]:
    """The maxima of so many windows, and their winners.

    Padding is as low as pixels can be and beats none, so where all pixels are as low the first one inside stays.
    """
    down, across = windows
    lowest = arrays.lowest(images)
    row, column = (axis.first_tap_inside(arrays, count) for axis, count in zip(windows, counts))
    highest, its_column = lowest, column
    for tap, pixels in enumerate(across.taps(arrays, images, counts[1], lowest)):
        better = _beats(pixels, highest)
        highest, its_column = arrays.where(better, pixels, highest), arrays.where(better, tap, its_column)
    maxima = lowest
    rows = zip(down.taps(arrays, highest, counts[0], lowest), down.taps(arrays, its_column, counts[0]))
    for tap, (pixels, columns) in enumerate(rows):
        better = _beats(pixels, maxima)
        maxima = arrays.where(better, pixels, maxima)
        row, column = arrays.where(better, tap, row), arrays.where(better, columns, column)
    return maxima, arrays.cast(row * across.window + column, winners_dtype)


def _beats(pixels: Any, best: Any) -> Any:
    """Where pixels are greater than the best before them; NaN is, than all but NaN."""
    return (pixels > best) | ((pixels != pixels) & (best == best))


def max_pool2d_grad(arrays: Arrays, winners: Any, maps: Any, rows: int, columns: int, windows: Windows) -> Any:
    """Scatter ``maps`` to the pixels that won, in images of ``rows`` x ``columns``."""
    places = _winning_pixels(arrays, winners, columns, windows)
    planes = arrays.scatter(maps.reshape(places.shape), places, rows * columns)
    return planes.reshape((*maps.shape[:2], rows, columns))


def max_pool2d_gather(arrays: Arrays, images: Any, winners: Any, windows: Windows) -> Any:
    """Pick ``images`` at the pixels that won."""
    batch, channels, rows, columns = images.shape
    places = _winning_pixels(arrays, winners, columns, windows)
    return arrays.pick(images.reshape((batch, channels, rows * columns)), places).reshape(winners.shape)


def _winning_pixels(arrays: Arrays, winners: Any, columns: int, windows: Windows) -> Any:
    """The pixels that won, counted row by row in images of so many columns: (batch, channels, windows)."""
    batch, channels, *counts = winners.shape
    winners, width = arrays.cast(winners, "int32"), windows[1].window
    pixels = winners + winners // width * (columns - width) + corners(arrays, counts, columns, windows)
    return pixels.reshape((batch, channels, counts[0] * counts[1]))


def corners(arrays: Arrays, counts: Sequence[int], columns: int, windows: Windows) -> Any:
    """The first pixels of so many windows, counted as if images of so many columns went on beyond their edges."""
    down, across = (axis.vector(arrays.arange(n) * axis.stride - axis.before) for axis, n in zip(windows, counts))
    return down * columns + across


def draw_winners2d(arrays: Arrays, images: Any, uniforms: Any, winners_dtype: str, windows: Windows) -> Any:
    """Winners drawn in proportion to the positive pixels of their windows, as ``uniforms`` decide."""
    down, across = windows
    counts = uniforms.shape[2:]

    def taps(tensor):
        for rows in down.taps(arrays, tensor, counts[0]):
            yield from across.taps(arrays, rows, counts[1])

    shares = arrays.where(images < 0, 0, images)
    total = sum(taps(shares))
    running, drawn = 0, -1
    for tap, share in enumerate(taps(shares)):
        running = running + share
        reached = (running > uniforms * total) | (running == total)
        for axis, place, count in zip(windows, divmod(tap, across.window), counts):
            reached = reached & axis.inside(arrays, place, count, images.shape[axis.number])
        drawn = arrays.where(reached & (drawn < 0), tap, drawn)
    _, greatest = max_pool2d(arrays, images, "int32", counts, windows)
    return arrays.cast(arrays.where(arrays.isfinite(total), drawn, greatest), winners_dtype)


# ------------------------------------------------------------------------------------ average pooling


def average_pool2d(arrays: Arrays, images: Any, counts: Pair, windows: Windows, mode: str) -> Any:
    """The sum or average of so many windows; ``mode`` is 'sum', 'average_inc_pad' or 'average_exc_pad'."""
    down, across = windows
    sums = sum(across.taps(arrays, images, counts[1]))
    sums = sum(down.taps(arrays, sums, counts[0]))
    return _shared(arrays, sums, images.shape[2:], windows, mode)


def average_pool2d_grad(arrays: Arrays, maps: Any, rows: int, columns: int, windows: Windows, mode: str) -> Any:
    """Spread ``maps`` over their windows, in images of ``rows`` x ``columns``."""
    images = _shared(arrays, maps, (rows, columns), windows, mode)
    for axis, length in zip(windows, (rows, columns)):
        images = sum(
            arrays.where(tap < axis.window, axis.on_pixels(arrays, images, start, length), 0)
            for start, tap in axis.holders(arrays, length)
        )
    return images


def _shared(arrays: Arrays, maps: Any, lengths: Pair, windows: Windows, mode: str) -> Any:
    """Sums, or their gradients, divided by how many taps count of windows on images of ``lengths``."""
    if mode == "sum":
        return maps
    down, across = (
        axis.counted(arrays, maps.shape[axis.number], length, mode) for axis, length in zip(windows, lengths)
    )
    return maps / (down * across)
