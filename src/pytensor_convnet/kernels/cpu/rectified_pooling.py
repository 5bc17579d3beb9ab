"""Average pooling of bc01 images that are biased and rectified on the way, and its gradients.

    maps[b, c, y, x] = sum over i, j of  max(images[b, c, ...] + biases[c], 0) / divisor(y, x)

with the pixels and divisors of `average_pooling`, whose kernels do the pooling. A block of neighbouring planes of an
image at a time is biased and rectified to where it stays in cache, and pooled from there. Gradients are spread over a
block, which while it is in cache is muted where the rectifier muted its images, and summed.
"""

import numpy as np
from llvmlite import ir
from numba import types

from pytensor_convnet.kernels.cpu.average_pooling import (
    MODES,
    average_pool2d,
    average_windows,
    divisors,
    spread_averages,
)
from pytensor_convnet.kernels.cpu.bands import TASKS
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.emission import address_of, emitted, keep_alive
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, item_bytes
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import WINDOWS, check_pool, check_pooled, useful_threads

BLOCK_BYTES = 1 << 16
"""A block has about so many bytes of images, or is one plane."""

_SUM = MODES["sum"]


# -------------------------------------------------------------------------------------------------- rows


def _along_rows(e, vector, source, row_bytes, rows, columns, target, of_numbers):
    """Replace ``columns`` numbers of each of ``rows`` contiguous rows at ``target``, a vector of them at a time.

    ``of_numbers(read, old)`` gives what they become, of the numbers at ``source`` and ``old()``, those at ``target``.
    """
    item, lanes = item_bytes(vector), vector.count
    zeros = e.constant(vector, 0)
    joined = row_bytes.equals(columns * item)
    rows, columns = e.select(joined, e.integer(1), rows), e.select(joined, rows * columns, columns)
    whole = columns // lanes * lanes
    with e.range(0, rows) as row:
        here, there = source + row * row_bytes, target + row * columns * item
        with e.range(0, whole, lanes) as column:
            offset = column * item
            e.store(there + offset, of_numbers(e.load(vector, here + offset), lambda: e.load(vector, there + offset)))
        with e.when(whole < columns):
            few, offset = columns - whole, whole * item
            read = e.load_first(here + offset, few, zeros)
            values = of_numbers(read, lambda: e.load_first(there + offset, few, zeros))
            e.store_first(there + offset, few, values)


@emitted(arrays=1)
def _rectify_plane(e, vector, source, row_bytes, rows, columns, bias_at, target):
    """Copy a plane, biased and rectified. NaN stays NaN."""
    bias = e.splat(vector, e.load(vector.element, bias_at))

    def rectified(pixels, _):
        biased = pixels + bias
        return e.select(biased < 0, e.constant(vector, 0), biased)

    _along_rows(e, vector, source, row_bytes, rows, columns, target, rectified)


@emitted(arrays=1)
def _mute_plane(e, vector, source, row_bytes, rows, columns, bias_at, target, sums_at):
    """Clear a plane of gradients where the biased images are negative, or NaN, and add it up, lane by lane."""
    bias = e.splat(vector, e.load(vector.element, bias_at))
    wide = ir.VectorType(ir.DoubleType(), vector.count)
    total = e.variable(e.load(wide, sums_at))

    def muted(pixels, read):
        values = e.select(pixels + bias >= 0, read(), e.constant(vector, 0))
        total.set(total.get() + values.widened())
        return values

    _along_rows(e, vector, source, row_bytes, rows, columns, target, muted)
    e.store(sums_at, total.get())


# ------------------------------------------------------------------------------------------------ blocks


@part
def _planes_of_block(images):
    """How many neighbouring planes of an image are a block, at most."""
    channels, plane = images.shape[1], images.shape[2] * images.shape[3] * images.itemsize
    return max(1, min(channels, BLOCK_BYTES // plane, images.shape[0] * channels // TASKS))


@part
def _place_block(unit, count, channels):
    """Image, first channel and last of block number ``unit``, where blocks have ``count`` planes."""
    image, block = divmod(unit, (channels + count - 1) // count)
    return image, block * count, min((block + 1) * count, channels)


@part
def _share(chunk, chunks, images, count):
    """The blocks of a chunk of work."""
    units = images.shape[0] * ((images.shape[1] + count - 1) // count)
    return chunk * units // chunks, (chunk + 1) * units // chunks


@part
def _planes_of(array, image, channel, end):
    """Neighbouring planes of an image of a contiguous array, as images with one batch."""
    return array[image][channel:end].reshape((1, end - channel, array.shape[2], array.shape[3]))


def _signature(number):
    images, vector = types.Array(number, 4, "A", readonly=True), number[::1]
    return images, vector, number[:, :, :, ::1], vector, vector, WINDOWS


@chunked(_signature)
@part
def _pool(chunk, chunks, images, biases, maps, heights, widths, windows):
    """For each block of planes: bias and rectify it, pool it."""
    count, channels = _planes_of_block(images), images.shape[1]
    block = new_array((1, count, windows.rows, windows.columns), images.dtype)
    plane_bytes = windows.rows * windows.columns * images.itemsize
    begin, end = _share(chunk, chunks, images, count)
    for unit in range(begin, end):
        image, first, last = _place_block(unit, count, channels)
        for c in range(first, last):
            _rectify_plane(
                images, address_of(images) + image * images.strides[0] + c * images.strides[1], images.strides[2],
                windows.rows, windows.columns, address_of(biases) + c * biases.itemsize,
                address_of(block) + (c - first) * plane_bytes,
            )  # fmt: skip
        rectified = any_layout(block[:, : last - first])
        average_windows(1, rectified, _planes_of(maps, image, first, last), heights, widths, windows)
    keep_alive(block)


def _grad_signature(number):
    images, vector = types.Array(number, 4, "A", readonly=True), number[::1]
    sums = types.float64[:, :, ::1]
    return images, vector, images, number[:, :, :, ::1], sums, vector, vector, WINDOWS


@chunked(_grad_signature)
@part
def _pool_grad(chunk, chunks, images, biases, maps, images_grad, sums, heights, widths, windows):
    """For each block of planes: spread its maps over it, mute it and add it up."""
    count, channels = _planes_of_block(images), images.shape[1]
    begin, end = _share(chunk, chunks, images, count)
    for unit in range(begin, end):
        image, first, last = _place_block(unit, count, channels)
        block = _planes_of(images_grad, image, first, last)
        spread_averages(1, any_layout(maps[image : image + 1, first:last]), block, heights, widths, windows)
        for c in range(first, last):
            _mute_plane(
                images, address_of(images) + image * images.strides[0] + c * images.strides[1], images.strides[2],
                windows.rows, windows.columns, address_of(biases) + c * biases.itemsize,
                address_of(block) + (c - first) * windows.rows * windows.columns * images.itemsize,
                address_of(sums) + chunk * sums.strides[0] + c * sums.strides[1],
            )  # fmt: skip
    keep_alive(images_grad)


# ----------------------------------------------------------------------------------------------- kernels


@part
def _with_contiguous_rows(images):
    """The images, or if their rows are not contiguous a copy: sums of one pixel each, as there are of any layout."""
    if images.strides[3] == images.itemsize or images.size == 0:
        return any_layout(images)
    return any_layout(average_pool2d(images, (1, 1), (1, 1), ((0, 0), (0, 0)), True, _SUM))


@part
def _contiguous_biases(biases, images):
    """A number for each channel of the images, in their dtype."""
    if biases.size != images.shape[1]:
        raise ValueError("biases must hold a number for each channel of the input")
    numbers = new_array((biases.size,), images.dtype)
    for c in range(biases.size):
        numbers[c] = biases[c]
    return numbers


@kernel
def rectified_average_pool2d(images, biases, window, stride, padding, ignore_border, mode):
    """Biased, rectified and pooled images; ``mode`` is a number of `MODES`; see `reference.rectified_average_pool2d`.

    Floor: images read once, maps written once.
    """
    windows = check_pool(images.shape, window, stride, padding, ignore_border)
    numbers = _contiguous_biases(biases, images)
    maps = new_array((images.shape[0], images.shape[1], windows.out_rows, windows.out_columns), images.dtype)
    if maps.size:
        heights, widths = divisors(windows, mode, maps)
        threads = useful_threads(maps.size * windows.window_rows * windows.window_columns)
        _pool(threads, _with_contiguous_rows(images), numbers, maps, heights, widths, windows)
    return maps


@kernel
def rectified_average_pool2d_grad(images, biases, maps, window, stride, padding, mode):
    """The gradients for images and biases, given that of the maps; see `reference.rectified_average_pool2d_grad`.

    Biases' gradients are added up in 64 bits, by each thread for itself, and joined in a fixed order. Floor: images and
    maps read once, the images' gradient written once.
    """
    windows = check_pooled(images.shape, maps.shape, window, stride, padding)
    numbers = _contiguous_biases(biases, images)
    images_grad, biases_grad = new_array(images.shape, images.dtype), new_array(biases.shape, images.dtype)
    threads = useful_threads(images.size)
    sums = np.zeros((threads, biases.size, VECTOR_BYTES // images.itemsize), np.float64)
    if images.size:
        heights, widths = divisors(windows, mode, images)
        placed, given = _with_contiguous_rows(images), _with_contiguous_rows(maps)
        _pool_grad(threads, placed, numbers, given, images_grad, sums, heights, widths, windows)
    for c in range(biases.size):
        biases_grad[c] = sums[:, c].sum()
    return images_grad, biases_grad
