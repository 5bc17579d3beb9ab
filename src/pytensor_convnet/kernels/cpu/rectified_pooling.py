"""Average pooling of bc01 images that are biased and rectified on the way, and its gradients.

    maps[b, c, y, x] = sum over i, j of  max(images[b, c, ...] + biases[c], 0) / divisor(y, x)

with the pixels and divisors of `average_pooling`, whose loops do it. Where each pixel is a window there is nothing to
pool: then these are a rectifier and its gradients, plane by plane.
"""

import numpy as np
from numba import types

from pytensor_convnet.kernels.cpu.average_pooling import MODES, average_pool2d, divisors, pool_averages
from pytensor_convnet.kernels.cpu.average_pooling_grad import Muting, spread_averages
from pytensor_convnet.kernels.cpu.detached import chunked
from pytensor_convnet.kernels.cpu.emission import address_of
from pytensor_convnet.kernels.cpu.jit import any_layout, kernel, part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.pool_checks import check_pool, check_pooled, useful_threads
from pytensor_convnet.kernels.cpu.rectifiers import mute_planes, rectify_plane

_SUM = MODES["sum"]


# -------------------------------------------------------------------------------- windows of one pixel


@part
def _of_one_pixel(windows):
    """Whether each pixel is a window."""
    return windows.window_rows * windows.window_columns * windows.stride_rows * windows.stride_columns == 1


@part
def _plane_at(array, image, channel):
    """The address of a plane."""
    return address_of(array) + image * array.strides[0] + channel * array.strides[1]


def _signature(number):
    return types.Array(number, 4, "A", readonly=True), number[::1], number[:, :, :, ::1]


@chunked(_signature)
@part
def _rectify(chunk, chunks, images, biases, maps):
    """For each plane: bias and rectify it."""
    channels, planes = images.shape[1], images.shape[0] * images.shape[1]
    for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
        image, c = divmod(plane, channels)
        rectify_plane(
            images, _plane_at(images, image, c), images.strides[2], images.shape[2], images.shape[3],
            address_of(biases) + c * biases.itemsize, _plane_at(maps, image, c),
        )  # fmt: skip


def _grad_signature(number):
    images = types.Array(number, 4, "A", readonly=True)
    return images, number[::1], images, number[:, :, :, ::1], types.float64[:, :, ::1]


@chunked(_grad_signature)
@part
def _mute(chunk, chunks, images, biases, maps, images_grad, sums):
    """For each plane: mute its gradient and add it up."""
    channels, planes = images.shape[1], images.shape[0] * images.shape[1]
    for plane in range(chunk * planes // chunks, (chunk + 1) * planes // chunks):
        image, c = divmod(plane, channels)
        mute_planes(
            images, 1, _plane_at(images, image, c), 0, images.strides[2], images.shape[2], images.shape[3],
            address_of(biases) + c * biases.itemsize, _plane_at(maps, image, c), 0, maps.strides[2],
            _plane_at(images_grad, image, c), address_of(sums) + chunk * sums.strides[0] + c * sums.strides[1],
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

    Floor: images read once, maps written once. (A bias of infinity makes NaN, and not infinity, of windows that reach
    into the padding.)
    """
    numbers = _contiguous_biases(biases, images)
    if not _of_one_pixel(check_pool(images.shape, window, stride, padding, ignore_border)):
        return pool_averages(images, numbers, window, stride, padding, ignore_border, mode)
    maps = new_array(images.shape, images.dtype)
    if maps.size:
        _rectify(useful_threads(maps.size), _with_contiguous_rows(images), numbers, maps)
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
        placed, given = _with_contiguous_rows(images), _with_contiguous_rows(maps)
        if _of_one_pixel(windows):
            _mute(threads, placed, numbers, given, images_grad, sums)
        else:
            heights, widths = divisors(windows, mode, images)
            muting = Muting(placed, numbers, sums)
            spread_averages(threads, given, images_grad, muting, heights, widths, windows)
    for c in range(biases.size):
        biases_grad[c] = sums[:, c].sum()
    return images_grad, biases_grad
