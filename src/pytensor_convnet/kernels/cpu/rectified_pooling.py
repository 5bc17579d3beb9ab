"""Average pooling of bc01 images that are biased and rectified as they are read, and its gradients.

    maps[b, c, y, x] = sum over i, j of  max(images[b, c, ...] + biases[c], 0) / divisor(y, x)

with the pixels and divisors of `average_pooling`.
"""

import numpy as np

from pytensor_convnet.kernels.cpu.average_pooling import average_pool2d, average_pool2d_grad
from pytensor_convnet.kernels.cpu.jit import kernel


@kernel
def rectified_average_pool2d(images, biases, window, stride, padding, ignore_border, mode):
    """Biased, rectified and pooled images; see `reference.rectified_average_pool2d`."""
    if biases.size != images.shape[1]:
        raise ValueError("biases must hold a number for each channel of the input")
    rectified = np.maximum(images + biases[:, None, None], images.dtype.type(0))
    return average_pool2d(rectified, window, stride, padding, ignore_border, mode)


@kernel
def rectified_average_pool2d_grad(images, biases, maps, window, stride, padding, mode):
    """The gradients for images and biases, given that of the maps; see `reference.rectified_average_pool2d_grad`."""
    if biases.size != images.shape[1]:
        raise ValueError("biases must hold a number for each channel of the input")
    shown = images + biases[:, None, None] >= 0
    spread = average_pool2d_grad(maps, images.shape[2], images.shape[3], window, stride, padding, mode)
    images_grad = np.where(shown, spread, images.dtype.type(0))
    biases_grad = np.zeros(biases.size, images.dtype)
    for c in range(biases.size):
        biases_grad[c] = images_grad[:, c].sum()
    return images_grad, biases_grad
