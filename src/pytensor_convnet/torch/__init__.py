"""Convolution and pooling for plain PyTorch programs: the CUDA kernels of this package, without PyTensor's graphs.

>>> from pytensor_convnet.torch import conv2d, max_pool2d  # doctest: +SKIP

The functions have the names and arguments of those in `torch.nn.functional` and can replace them. They can be
differentiated to any order, and work under torch.compile, autocast and in CUDA graphs.

On tensors that are not on a GPU, and for arguments that these kernels have no use for (each function names them), they
call torch's own functions.
"""

from pytensor_convnet.torch.convolution import conv2d, conv_max_pool2d
from pytensor_convnet.torch.placing import to_batch_last
from pytensor_convnet.torch.pooling import avg_pool2d, max_pool2d

__all__ = ["avg_pool2d", "conv2d", "conv_max_pool2d", "max_pool2d", "to_batch_last"]
