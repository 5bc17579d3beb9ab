"""``theano.sandbox.cuda.basic_ops``: moves between host and GPU, which there are none of here."""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.cuda_convnet import gpu_contiguous

__all__ = ["gpu_contiguous"]


def gpu_from_host(x: Any) -> Variable:
    """``x`` itself."""
    return pt.as_tensor_variable(x)


host_from_gpu = as_cuda_ndarray_variable = gpu_from_host


def GpuFromHost(*context: Any) -> Any:
    """The Op's name in Theano: gives `gpu_from_host`."""
    return gpu_from_host


HostFromGpu = GpuFromHost


def GpuContiguous() -> Any:
    """The Op's name in Theano: gives `gpu_contiguous`."""
    return gpu_contiguous


def gpu_alloc(value: Any, *shape: Any) -> Variable:
    """A tensor of this shape, full of ``value``."""
    return pt.alloc(value, *shape)


def gpu_alloc_empty(*shape: Any) -> Variable:
    """A float32 tensor of this shape, to be written to."""
    return pt.zeros(shape, dtype="float32")


__getattr__, __dir__ = mirror(__name__)
