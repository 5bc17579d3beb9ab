"""CUDA kernels in Triton. They know torch tensors, logical bc01 in one of three physical formats, and no PyTensor.

Importing this loads torch and Triton. Without a GPU the kernels run in Triton's interpreter, where the environment
variable ``TRITON_INTERPRET=1`` was set before Triton was imported.
"""

from pytensor_convnet.kernels.cuda.correlation import (
    PRECISIONS,
    correlate2d,
    correlate2d_filter_grad,
    correlate2d_input_grad,
)
from pytensor_convnet.kernels.cuda.formats import FORMATS, empty, memory_format, to_format

__all__ = [
    "FORMATS",
    "PRECISIONS",
    "correlate2d",
    "correlate2d_filter_grad",
    "correlate2d_input_grad",
    "empty",
    "memory_format",
    "to_format",
]
