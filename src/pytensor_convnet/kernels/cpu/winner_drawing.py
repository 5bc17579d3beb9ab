"""Drawing the winners of stochastic pooling on the CPU.

the winner of a window is the first tap at which the sum of positive pixels exceeds uniform * the whole sum
"""

import math

from numba import types

from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.max_pooling_grad import PAIRS
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pooled, useful_threads


@part
def _greatest(images, b, c, top, left, i0, i1, j0, j1):
    """The place of a window's greatest pixel, as max pooling finds it: NaN wins, and of equals the first."""
    best, best_i, best_j = images[b, c, top + i0, left + j0], i0, j0
    for i in range(i0, i1):
        for j in range(j0, j1):
            value = images[b, c, top + i, left + j]
            if value > best or (math.isnan(value) and not math.isnan(best)):
                best, best_i, best_j = value, i, j
    return best_i, best_j


@part
def _drawn(images, b, c, top, left, i0, i1, j0, j1, uniform):
    """The place of the pixel that is drawn from a window's rows ``i0`` to ``i1`` and columns ``j0`` to ``j1``."""
    nothing = uniform * 0
    total = nothing
    for i in range(i0, i1):
        for j in range(j0, j1):
            value = images[b, c, top + i, left + j]
            total += nothing if value < 0 else value
    if not math.isfinite(total):
        return _greatest(images, b, c, top, left, i0, i1, j0, j1)
    threshold, so_far = uniform * total, nothing
    for i in range(i0, i1):
        for j in range(j0, j1):
            value = images[b, c, top + i, left + j]
            so_far += nothing if value < 0 else value
            # The second condition: a product may round to the whole sum, and a sum may be zero.
            if so_far > threshold or so_far == total:
                return i, j
    return i0, j0


def _signature(number, winner):
    array = types.Array(number, 4, "A", readonly=True)
    return array, array, winner[:, :, :, ::1], WINDOWS


@chunked(_signature, PAIRS)
@part
def _draw(chunk, chunks, images, uniforms, winners, windows):
    """For each plane, for each window: add its pixels, then add them again up to the winner."""
    w = windows
    rows = winners.shape[0] * winners.shape[1] * w.out_rows
    for row in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
        plane, y = divmod(row, w.out_rows)
        b, c = divmod(plane, winners.shape[1])
        top = y * w.stride_rows - w.top
        i0, i1 = max(0, -top), min(w.window_rows, w.rows - top)
        for x in range(w.out_columns):
            left = x * w.stride_columns - w.left
            j0, j1 = max(0, -left), min(w.window_columns, w.columns - left)
            i, j = _drawn(images, b, c, top, left, i0, i1, j0, j1, uniforms[b, c, y, x])
            winners[b, c, y, x] = i * w.window_columns + j


@kernel
def draw_winners2d(images, uniforms, winners_dtype, window, stride, padding):
    """Draw a pixel of each window in proportion to its value; see `reference.draw_winners2d`.

    Floor: images and uniforms read once, winners written once. A branch for each tap: no vectors.
    """
    windows = check_pooled(images.shape, uniforms.shape, window, stride, padding)
    winners = new_array(uniforms.shape, winners_dtype)
    if winners.itemsize == 1 and windows.window_rows * windows.window_columns > 256:
        raise ValueError("one byte cannot number the taps of a window of more than 256: pass winners_dtype int64")
    if winners.size:
        threads = useful_threads(winners.size * windows.window_rows * windows.window_columns)
        _draw(threads, any_layout(images), any_layout(uniforms), winners, windows)
    return winners
