"""Max pooling without winners. A stand-in: `max_pooling` is to have a kernel that does not compute them."""

import numpy as np

from pytensor_convnet.kernels.cpu.jit import kernel
from pytensor_convnet.kernels.cpu.max_pooling import max_pool2d


@kernel
def max_pool2d_maxima(images, window, stride, padding, ignore_border):
    """The maximum of every window."""
    return max_pool2d(images, np.int64, window, stride, padding, ignore_border)[0]
