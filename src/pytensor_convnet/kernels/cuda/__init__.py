"""CUDA kernels in Triton, and where that cannot say what a Hopper GPU can do in CUDA C++.

They know torch tensors, logical bc01 in one of three physical formats, and no PyTensor.

Importing this loads torch and Triton. Without a GPU the kernels run in Triton's interpreter, where the environment
variable ``TRITON_INTERPRET=1`` was set before Triton was imported.
"""

from pytensor_convnet.kernels.cuda.average_pooling import MODES, average_pool2d, average_pool2d_grad
from pytensor_convnet.kernels.cuda.conv_pool import (
    correlate2d_max_pool2d,
    correlate2d_max_pool2d_filter_grad,
    correlate2d_max_pool2d_grads,
    correlate2d_max_pool2d_input_grad,
)
from pytensor_convnet.kernels.cuda.copying import change_format
from pytensor_convnet.kernels.cuda.correlation import (
    PRECISIONS,
    correlate2d,
    correlate2d_filter_grad,
    correlate2d_grads,
    correlate2d_input_grad,
)
from pytensor_convnet.kernels.cuda.formats import FORMATS, empty, memory_format, to_format
from pytensor_convnet.kernels.cuda.max_pooling import max_pool2d, max_pool2d_maxima
from pytensor_convnet.kernels.cuda.max_pooling_grad import max_pool2d_gather, max_pool2d_grad
from pytensor_convnet.kernels.cuda.normalisation import cross_map_norm, cross_map_norm_grad
from pytensor_convnet.kernels.cuda.pixel_sums import sum_over_pixels
from pytensor_convnet.kernels.cuda.rectified_pooling import rectified_average_pool2d, rectified_average_pool2d_grad
from pytensor_convnet.kernels.cuda.streams import late_product

__all__ = [
    "FORMATS",
    "MODES",
    "PRECISIONS",
    "average_pool2d",
    "average_pool2d_grad",
    "change_format",
    "correlate2d",
    "correlate2d_filter_grad",
    "correlate2d_grads",
    "correlate2d_input_grad",
    "correlate2d_max_pool2d",
    "correlate2d_max_pool2d_filter_grad",
    "correlate2d_max_pool2d_grads",
    "correlate2d_max_pool2d_input_grad",
    "cross_map_norm",
    "cross_map_norm_grad",
    "empty",
    "late_product",
    "max_pool2d",
    "max_pool2d_gather",
    "max_pool2d_grad",
    "max_pool2d_maxima",
    "memory_format",
    "rectified_average_pool2d",
    "rectified_average_pool2d_grad",
    "sum_over_pixels",
    "to_format",
]
