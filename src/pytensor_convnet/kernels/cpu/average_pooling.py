"""Sum and average pooling of bc01 images on the CPU, and its gradient.

    maps[b, c, y, x] = sum over i, j of  images[b, c, y * stride + i - top, x * stride + j - left] / divisor(y, x)

Padding adds nothing to the sum. Whether it counts in the divisor is the mode; see `MODES`.
"""

import numpy as np

from pytensor_convnet.kernels.cpu.chunks import over_chunks, part
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel
from pytensor_convnet.kernels.cpu.pool_checks import check_pool, check_pooled
from pytensor_convnet.kernels.cpu.strips import cut, load_strip, new_scratch, place, run, tap_start

MODES = {"sum": 0, "average_inc_pad": 1, "average_exc_pad": 2}
"""The number of each mode: compiled code takes the number, as strings would triple its compilation time."""

SERIAL_TAPS = 1 << 15
"""Below so many additions, waking a thread takes longer than the work."""

_SUM, _INCLUDE_PADDING = MODES["sum"], MODES["average_inc_pad"]


@part
def _extents(count, length, window, stride, before, after, mode):
    """For each window along one axis the length that the divisor counts: of the image, or with padding."""
    extents = np.empty(count, np.int64)
    for y in range(count):
        start = y * stride - before
        if mode == _SUM:
            extents[y] = 1
        elif mode == _INCLUDE_PADDING:
            extents[y] = min(start + window, length + after) - start
        else:
            extents[y] = min(start + window, length) - max(start, 0)
    return extents


@part
def _add(values, sums):
    for t in range(sums.size):
        sums[t] += values[t]


@part
def _store_quotients(sums, maps, heights, widths, where, strips):
    """Divide a strip's sums and copy them, row by row, to where they belong."""
    first_plane, planes, first_row, rows = where
    channels, columns = maps.shape[1], maps.shape[3]
    for p in range(planes):
        b, c = divmod(first_plane + p, channels)
        for y in range(rows):
            source = run(sums, ((p * strips.lines + y) * strips.pitch,), columns)
            row = run(maps, (b, c, first_row + y, 0), columns)
            for x in range(columns):
                row[x] = source[x] / (heights[first_row + y] * widths[x])


@part
def _average_pool_chunk(chunk, chunks, images, maps, heights, widths, windows):
    """Pool one chunk of the strips."""
    planes = images.shape[0] * images.shape[1]
    strips = cut(planes, windows)
    scratch, insides = new_scratch(0, images, strips, windows)
    sums = np.empty(strips.cells, maps.dtype)
    # Taps further down or right than the image reaches add nothing.
    tap_rows = min(windows.window_rows, windows.rows + windows.top)
    tap_columns = min(windows.window_columns, windows.columns + windows.left)
    for strip in range(chunk * strips.total // chunks, (chunk + 1) * strips.total // chunks):
        where = place(strip, strips, windows, planes)
        load_strip(images, scratch, insides, 0, where, strips, windows)
        size = ((where[1] - 1) * strips.lines + where[3] - 1) * strips.pitch + windows.out_columns
        strip_sums = run(sums, (0,), size)
        strip_sums[:] = 0
        for i in range(tap_rows):
            for j in range(tap_columns):
                _add(run(scratch, (tap_start(i, j, strips, windows),), size), strip_sums)
        _store_quotients(strip_sums, maps, heights, widths, where, strips)


@kernel
def average_pool2d(images, window, stride, padding, ignore_border, mode):
    """The sum or average of every window; ``mode`` is a number of `MODES`; see `reference.average_pool2d`.

    For each strip (`strips`), for each tap, for each window: add. Reads every image once and writes every map
    once, which is the floor in bytes.
    """
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    maps = np.empty((images.shape[0], images.shape[1], windows.out_rows, windows.out_columns), images.dtype)
    heights, widths = _divisors(windows, mode)
    if maps.size:
        taps = maps.size * windows.window_rows * windows.window_columns
        arguments = (any_layout(images), maps, heights, widths, windows)
        over_chunks(_average_pool_chunk, arguments, taps > SERIAL_TAPS)
    return maps


@part
def _divisors(windows, mode):
    """Two vectors; the divisor of window ``(y, x)`` is ``heights[y] * widths[x]``."""
    w = windows
    heights = _extents(w.out_rows, w.rows, w.window_rows, w.stride_rows, w.top, w.bottom, mode)
    widths = _extents(w.out_columns, w.columns, w.window_columns, w.stride_columns, w.left, w.right, mode)
    return heights, widths


# ------------------------------------------------------------------------------------------- gradient


@part
def _average_pool_grad_chunk(chunk, chunks, maps, images, heights, widths, windows):
    """Spread one chunk of the planes: each row of maps first over its columns, then that over its rows."""
    channels = maps.shape[1]
    planes = maps.shape[0] * channels
    spread = np.empty(windows.columns, maps.dtype)
    for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
        b, c = divmod(plane, channels)
        run(images, (b, c, 0, 0), windows.rows * windows.columns)[:] = 0
        for y in range(windows.out_rows):
            spread[:] = 0
            for x in range(windows.out_columns):
                share = maps[b, c, y, x] / (heights[y] * widths[x])
                left = x * windows.stride_columns - windows.left
                for column in range(max(left, 0), min(left + windows.window_columns, windows.columns)):
                    spread[column] += share
            top = y * windows.stride_rows - windows.top
            for row in range(max(top, 0), min(top + windows.window_rows, windows.rows)):
                _add(spread, run(images, (b, c, row, 0), windows.columns))


@kernel
def average_pool2d_grad(maps, rows, columns, window, stride, padding, mode):
    """Spread ``maps`` over their windows; ``mode`` is a number of `MODES`; see `reference.average_pool2d_grad`.

    For each plane, for each row of maps: spread over columns, then add to each of the window's rows. Reads
    every map once and writes every image once, which is the floor in bytes.
    """
    shape = (maps.shape[0], maps.shape[1], int(rows), int(columns))
    windows = check_pooled(shape, maps.shape, window, stride, padding)
    images = np.empty(shape, maps.dtype)
    heights, widths = _divisors(windows, mode)
    arguments = (any_layout(maps), images, heights, widths, windows)
    over_chunks(_average_pool_grad_chunk, arguments, images.size > SERIAL_TAPS)
    return images
