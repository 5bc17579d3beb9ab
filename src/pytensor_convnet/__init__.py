"""Convolution and pooling for PyTensor, fast on every device.

>>> from pytensor_convnet import conv2d, max_pool_2d
"""

from pytensor_convnet import cuda, lowering, rewriting  # noqa: F401  (make Ops, rewrites and mode CUDA known)
from pytensor_convnet.conv import (
    conv2d,
    conv2d_grad_wrt_inputs,
    conv2d_grad_wrt_weights,
    conv2d_transpose,
    separable_conv2d,
)
from pytensor_convnet.pool import max_pool_2d, pool_2d

__version__ = "0.1.0"

__all__ = [
    "conv2d",
    "conv2d_grad_wrt_inputs",
    "conv2d_grad_wrt_weights",
    "conv2d_transpose",
    "max_pool_2d",
    "pool_2d",
    "separable_conv2d",
]
