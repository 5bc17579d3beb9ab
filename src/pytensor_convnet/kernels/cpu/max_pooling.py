"""Max pooling of bc01 images on the CPU: forward, gradient, and the gradient's gradient.

    maxima[b, c, y, x]  = max over i, j of  images[b, c, y * stride + i - top, x * stride + j - left]
    winners[b, c, y, x] = i * window_columns + j  of that maximum

Padding never wins, NaN does, and of equal maxima the first in row-major order wins. The gradients need only the
winners, not the images: one byte a window instead of reading and comparing the images again.
"""

import numpy as np

from pytensor_convnet.geometry import WINNER, WINNERS, ShapeError
from pytensor_convnet.kernels.cpu.chunks import over_chunks, part
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel
from pytensor_convnet.kernels.cpu.pool_checks import check_pool, check_pooled
from pytensor_convnet.kernels.cpu.strips import cut, load_strip, lowest, new_scratch, place, run, tap_start
from pytensor_convnet.kernels.cpu.threads import thread_count

SERIAL_TAPS = 1 << 15
"""Below so many comparisons or moves, waking a thread takes longer than the work."""


@part
def _challenge(values, number, maxima, winners):
    """Tap ``number`` challenges every window's maximum so far: ``values`` that are greater, or NaN, win."""
    for t in range(maxima.size):
        value, best = values[t], maxima[t]
        wins = (value > best) | ((value != value) & (best == best))
        maxima[t] = value if wins else best
        winners[t] = number if wins else winners[t]


@part
def _begin(maxima, winners, where, strips, windows, filling):
    """Before any tap: the lowest value, won by the first tap inside the image.

    So that a window of nothing but lowest values, as padding holds, has its winner inside the image.
    """
    maxima[:] = filling
    winners[:] = 0
    if not (windows.top or windows.left):
        return
    _, planes, first_row, rows = where
    partial = min(windows.out_columns, -(-windows.left // windows.stride_columns))
    for p in range(planes):
        for y in range(rows):
            start = (p * strips.lines + y) * strips.pitch
            above = max(0, windows.top - (first_row + y) * windows.stride_rows)
            if above:
                for x in range(windows.out_columns):
                    winners[start + x] = above * windows.window_columns
            for x in range(partial):
                winners[start + x] += windows.left - x * windows.stride_columns


@part
def _store(values, target, where, strips):
    """Copy a strip's results, row by row, to where they belong in ``target``."""
    first_plane, planes, first_row, rows = where
    channels, columns = target.shape[1], target.shape[3]
    for p in range(planes):
        b, c = divmod(first_plane + p, channels)
        for y in range(rows):
            source = run(values, ((p * strips.lines + y) * strips.pitch,), columns)
            row = run(target, (b, c, first_row + y, 0), columns)
            for x in range(columns):
                row[x] = source[x]


@part
def _max_pool_chunk(chunk, chunks, images, maxima, winners, windows):
    """Pool one chunk of the strips."""
    planes = images.shape[0] * images.shape[1]
    strips = cut(planes, windows)
    filling = lowest(images)
    scratch, insides = new_scratch(filling, images, strips, windows)
    best = np.empty(strips.cells, maxima.dtype)
    numbers = np.empty(strips.cells, winners.dtype)
    # Taps further down or right than the image reaches cannot win.
    tap_rows = min(windows.window_rows, windows.rows + windows.top)
    tap_columns = min(windows.window_columns, windows.columns + windows.left)
    for strip in range(chunk * strips.total // chunks, (chunk + 1) * strips.total // chunks):
        where = place(strip, strips, windows, planes)
        load_strip(images, scratch, insides, filling, where, strips, windows)
        size = ((where[1] - 1) * strips.lines + where[3] - 1) * strips.pitch + windows.out_columns
        strip_maxima, strip_winners = run(best, (0,), size), run(numbers, (0,), size)
        _begin(strip_maxima, strip_winners, where, strips, windows, filling)
        for i in range(tap_rows):
            for j in range(tap_columns):
                values = run(scratch, (tap_start(i, j, strips, windows),), size)
                _challenge(values, i * windows.window_columns + j, strip_maxima, strip_winners)
        _store(strip_maxima, maxima, where, strips)
        _store(strip_winners, winners, where, strips)


@kernel
def max_pool2d(images, winners_dtype, window, stride, padding, ignore_border):
    """The maximum of every window and the tap that won it; see `reference.max_pool2d`.

    For each strip (`strips`), for each tap, for each window: compare and select. Reads every image once and
    writes maxima and winners once, which is the floor in bytes.
    """
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    shape = (images.shape[0], images.shape[1], windows.out_rows, windows.out_columns)
    maxima = np.empty(shape, images.dtype)
    winners = np.empty(shape, winners_dtype)
    if winners.itemsize == 1 and windows.window_rows * windows.window_columns > 256:
        raise ValueError("one byte cannot number the taps of a window of more than 256: pass winners_dtype int64")
    if maxima.size:
        taps = maxima.size * windows.window_rows * windows.window_columns
        over_chunks(_max_pool_chunk, (any_layout(images), maxima, winners, windows), taps > SERIAL_TAPS)
    return maxima, winners


# ------------------------------------------------------------------------------------------ gradients


@part
def _winning_pixel(winner, y, x, rows_of_tap, columns_of_tap, windows):
    """Row-major position in its plane of the pixel that won window ``(y, x)``; -1 if there is no such pixel."""
    if winner < 0 or winner >= rows_of_tap.size:
        return -1
    row = y * windows.stride_rows - windows.top + rows_of_tap[winner]
    column = x * windows.stride_columns - windows.left + columns_of_tap[winner]
    if row < 0 or row >= windows.rows or column < 0 or column >= windows.columns:
        return -1
    return row * windows.columns + column


@part
def _max_pool_grad_chunk(chunk, chunks, winners, maps, images, misfits, windows):
    """Scatter one chunk of the planes; note in ``misfits[chunk]`` a window whose winner is none of its pixels."""
    channels = maps.shape[1]
    planes = maps.shape[0] * channels
    taps = np.arange(windows.window_rows * windows.window_columns)
    rows_of_tap, columns_of_tap = taps // windows.window_columns, taps % windows.window_columns
    for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
        b, c = divmod(plane, channels)
        pixels = run(images, (b, c, 0, 0), windows.rows * windows.columns)
        pixels[:] = 0
        for y in range(windows.out_rows):
            for x in range(windows.out_columns):
                winner = np.int64(winners[b, c, y, x])
                pixel = _winning_pixel(winner, y, x, rows_of_tap, columns_of_tap, windows)
                if pixel < 0:
                    misfits[chunk] = (plane * windows.out_rows + y) * windows.out_columns + x
                else:
                    pixels[pixel] += maps[b, c, y, x]


@part
def _max_pool_gather_chunk(chunk, chunks, images, winners, maps, misfits, windows):
    """Gather one chunk of the planes; note in ``misfits[chunk]`` a window whose winner is none of its pixels."""
    channels = maps.shape[1]
    planes = maps.shape[0] * channels
    taps = np.arange(windows.window_rows * windows.window_columns)
    rows_of_tap, columns_of_tap = taps // windows.window_columns, taps % windows.window_columns
    for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
        b, c = divmod(plane, channels)
        for y in range(windows.out_rows):
            for x in range(windows.out_columns):
                winner = np.int64(winners[b, c, y, x])
                pixel = _winning_pixel(winner, y, x, rows_of_tap, columns_of_tap, windows)
                if pixel < 0:
                    misfits[chunk] = (plane * windows.out_rows + y) * windows.out_columns + x
                else:
                    row, column = divmod(pixel, windows.columns)
                    maps[b, c, y, x] = images[b, c, row, column]


@part
def _check_same_shape(winners, maps):
    """Raise `ShapeError` unless every value of maps of shape ``maps`` has its winner."""
    if winners != maps:
        raise ShapeError(WINNERS, winners[0], winners[1], winners[2], winners[3], maps[0], maps[1], maps[2], maps[3])


@part
def _check_misfits(misfits, winners, windows):
    """Raise `ShapeError` if a chunk found a winner that is none of its window's pixels."""
    for misfit in misfits:
        if misfit >= 0:
            plane, pixel = divmod(misfit, windows.out_rows * windows.out_columns)
            b, c = divmod(plane, winners.shape[1])
            y, x = divmod(pixel, windows.out_columns)
            winner = int(winners[b, c, y, x])
            raise ShapeError(WINNER, winner, windows.window_rows, windows.window_columns)


@kernel
def max_pool2d_grad(winners, maps, rows, columns, window, stride, padding):
    """Scatter ``maps`` to the pixels that won; see `reference.max_pool2d_grad`.

    For each plane, for each window: ``images[b, c, winning pixel] += maps[b, c, y, x]``. Planes are dealt to
    threads, so no two threads add to one pixel and the order of additions is fixed. Reads winners and maps
    once and writes every image once, which is the floor in bytes.
    """
    shape = (winners.shape[0], winners.shape[1], int(rows), int(columns))
    windows = check_pooled(shape, winners.shape, window, stride, padding)
    _check_same_shape(winners.shape, maps.shape)
    images = np.empty(shape, maps.dtype)
    misfits = np.full(thread_count(), -1)
    arguments = (any_layout(winners), any_layout(maps), images, misfits, windows)
    over_chunks(_max_pool_grad_chunk, arguments, images.size > SERIAL_TAPS)
    _check_misfits(misfits, winners, windows)
    return images


@kernel
def max_pool2d_gather(images, winners, window, stride, padding):
    """Pick ``images`` at the pixels that won; see `reference.max_pool2d_gather`.

    For each plane, for each window: ``maps[b, c, y, x] = images[b, c, winning pixel]``.
    """
    windows = check_pooled(images.shape, winners.shape, window, stride, padding)
    maps = np.empty(winners.shape, images.dtype)
    misfits = np.full(thread_count(), -1)
    arguments = (any_layout(images), any_layout(winners), maps, misfits, windows)
    over_chunks(_max_pool_gather_chunk, arguments, images.size > SERIAL_TAPS)
    _check_misfits(misfits, winners, windows)
    return maps
