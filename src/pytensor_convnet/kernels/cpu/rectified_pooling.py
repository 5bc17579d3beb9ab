"""Average pooling of bc01 images that are biased and rectified on the way, and its gradients.

    maps[b, c, y, x] = sum over i, j of  max(images[b, c, ...] + biases[c], 0) / divisor(y, x)

with the pixels and divisors of `average_pooling`, whose kernels do the pooling. A block of neighbouring planes of an
image at a time is biased and rectified to where it stays in cache, and pooled from there. Gradients are spread over a
block, which while it is in cache is muted where the rectifier muted its images, and summed.
"""

import functools
import operator

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


def _along_rows(e, vector, sources, columns, rows, target, of_numbers):
    """Write ``columns`` numbers of each of ``rows`` contiguous rows to ``target``, a vector of them at a time.

    ``of_numbers(*vectors)`` gives what they are, of a vector from each source; those are an address and the bytes from
    one row to the next.
    """
    item, lanes = item_bytes(vector), vector.count
    joined = functools.reduce(operator.and_, (row_bytes.equals(columns * item) for _, row_bytes in sources))
    rows, columns = e.select(joined, e.integer(1), rows), e.select(joined, rows * columns, columns)
    whole = columns // lanes * lanes
    with e.range(0, rows) as row:
        lines, line = [place + row * row_bytes for place, row_bytes in sources], target + row * columns * item
        with e.range(0, whole * item, lanes * item) as offset:
            e.store(line + offset, of_numbers(*(e.load(vector, place + offset) for place in lines)))
        with e.when(whole < columns):
            few, offset = columns - whole, whole * item
            last = [e.load_first(place + offset, few, e.constant(vector, 0)) for place in lines]
            e.store_first(line + offset, few, of_numbers(*last))


@emitted(arrays=1)
def _rectify_plane(e, vector, source, row_bytes, rows, columns, bias_at, target):
    """Copy a plane, biased and rectified. NaN stays NaN."""
    bias = e.splat(vector, e.load(vector.element, bias_at))

    def rectified(pixels):
        biased = pixels + bias
        return e.select(biased < 0, e.constant(vector, 0), biased)

    _along_rows(e, vector, [(source, row_bytes)], columns, rows, target, rectified)


@emitted(arrays=1)
def _mute_plane(e, vector, source, row_bytes, rows, columns, bias_at, spread, spread_row, target, sums_at):
    """Copy a plane of gradients, zero where the biased image is negative or NaN, and add it up, lane by lane."""
    bias = e.splat(vector, e.load(vector.element, bias_at))
    total = e.variable(e.load(ir.VectorType(ir.DoubleType(), vector.count), sums_at))

    def muted(pixels, gradients):
        values = e.select(pixels + bias >= 0, gradients, 0)
        total.set(total.get() + values.widened())
        return values

    _along_rows(e, vector, [(source, row_bytes), (spread, spread_row)], columns, rows, target, muted)
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


@part
def _plane_at(array, image, channel):
    """The address of a plane."""
    return address_of(array) + image * array.strides[0] + channel * array.strides[1]


@part
def _of_one_pixel(windows):
    """Whether each pixel is a window: then there is nothing to pool."""
    return windows.window_rows * windows.window_columns * windows.stride_rows * windows.stride_columns == 1


@chunked(_signature)
@part
def _pool(chunk, chunks, images, biases, maps, heights, widths, windows):
    """For each block of planes: bias and rectify it, pool it."""
    w, count, alone = windows, _planes_of_block(images), _of_one_pixel(windows)
    block = new_array((1, 1 if alone else count, w.rows, w.columns), images.dtype)
    begin, end = _share(chunk, chunks, images, count)
    for unit in range(begin, end):
        image, first, last = _place_block(unit, count, images.shape[1])
        for c in range(first, last):
            _rectify_plane(
                images, _plane_at(images, image, c), images.strides[2], w.rows, w.columns,
                address_of(biases) + c * biases.itemsize,
                _plane_at(maps, image, c) if alone else _plane_at(block, 0, c - first),
            )  # fmt: skip
        if not alone:
            rectified = any_layout(block[:, : last - first])
            average_windows(1, rectified, _planes_of(maps, image, first, last), heights, widths, w)
    keep_alive(block)


def _grad_signature(number):
    images, vector = types.Array(number, 4, "A", readonly=True), number[::1]
    sums = types.float64[:, :, ::1]
    return images, vector, images, number[:, :, :, ::1], sums, vector, vector, WINDOWS


@chunked(_grad_signature)
@part
def _pool_grad(chunk, chunks, images, biases, maps, images_grad, sums, heights, widths, windows):
    """For each block of planes: spread its maps over it, mute it and add it up."""
    w, count, alone = windows, _planes_of_block(images), _of_one_pixel(windows)
    begin, end = _share(chunk, chunks, images, count)
    for unit in range(begin, end):
        image, first, last = _place_block(unit, count, images.shape[1])
        if not alone:
            spread = _planes_of(images_grad, image, first, last)
            spread_averages(1, any_layout(maps[image : image + 1, first:last]), spread, heights, widths, w)
        for c in range(first, last):
            target = _plane_at(images_grad, image, c)
            _mute_plane(
                images, _plane_at(images, image, c), images.strides[2], w.rows, w.columns,
                address_of(biases) + c * biases.itemsize,
                _plane_at(maps, image, c) if alone else target,
                maps.strides[2] if alone else images_grad.strides[2],
                target, address_of(sums) + chunk * sums.strides[0] + c * sums.strides[1],
            )  # fmt: skip


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
