"""CPU kernels: Numba and LLVM vector instructions, no compiled extension.

Importing this loads Numba and compiles nothing; a kernel is compiled when it first meets a dtype, and kept on disk.
"""

from pytensor_convnet.kernels.cpu.activations import ACTIVATIONS
from pytensor_convnet.kernels.cpu.average_pooling import MODES, average_pool2d
from pytensor_convnet.kernels.cpu.average_pooling_grad import average_pool2d_grad
from pytensor_convnet.kernels.cpu.conv_pool import correlate2d_max_pool2d
from pytensor_convnet.kernels.cpu.conv_pool_grad import (
    correlate2d_max_pool2d_filter_grad,
    correlate2d_max_pool2d_input_grad,
)
from pytensor_convnet.kernels.cpu.correlation import correlate2d, correlate2d_input_grad
from pytensor_convnet.kernels.cpu.cross_map_norm import cross_map_norm, cross_map_norm_grad, cross_map_sum
from pytensor_convnet.kernels.cpu.filter_grad import correlate2d_filter_grad
from pytensor_convnet.kernels.cpu.locally_connected import (
    locally_connected2d,
    locally_connected2d_filter_grad,
    locally_connected2d_input_grad,
)
from pytensor_convnet.kernels.cpu.max_pooling import max_pool2d
from pytensor_convnet.kernels.cpu.max_pooling_grad import max_pool2d_gather, max_pool2d_grad
from pytensor_convnet.kernels.cpu.maxima import max_pool2d_maxima
from pytensor_convnet.kernels.cpu.rectified_pooling import rectified_average_pool2d, rectified_average_pool2d_grad
from pytensor_convnet.kernels.cpu.tanh_grad import tanh_grad
from pytensor_convnet.kernels.cpu.winner_drawing import draw_winners2d

KERNELS = (
    average_pool2d,
    average_pool2d_grad,
    correlate2d,
    correlate2d_filter_grad,
    correlate2d_input_grad,
    correlate2d_max_pool2d,
    correlate2d_max_pool2d_filter_grad,
    correlate2d_max_pool2d_input_grad,
    cross_map_norm,
    cross_map_norm_grad,
    cross_map_sum,
    draw_winners2d,
    locally_connected2d,
    locally_connected2d_filter_grad,
    locally_connected2d_input_grad,
    max_pool2d,
    max_pool2d_gather,
    max_pool2d_grad,
    max_pool2d_maxima,
    rectified_average_pool2d,
    rectified_average_pool2d_grad,
    tanh_grad,
)
"""Every kernel, as Numba's dispatcher."""

__all__ = ["ACTIVATIONS", "KERNELS", "MODES", *(kernel.__name__ for kernel in KERNELS)]
