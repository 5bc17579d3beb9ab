"""``theano.sandbox.cuda``: what ran on a GPU. The same operators run on what there is.

``cuda_available`` and ``cuda_enabled`` say that they can be used, which is what programs asked for; whether functions
run on a GPU, `theano.config.device` decides.
"""

from typing import Any

import numpy as np

from pytensor_convnet.compat.configuration import config
from pytensor_convnet.compat.device import synchronize as _synchronize
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.sandbox.cuda import basic_ops, blas, dnn
from pytensor_convnet.compat.theano.sandbox.cuda.basic_ops import (
    as_cuda_ndarray_variable,
    gpu_contiguous,
    gpu_from_host,
    host_from_gpu,
)
from pytensor_convnet.compat.theano.sandbox.cuda.type import CudaNdarrayType
from pytensor_convnet.compat.theano.sandbox.cuda.var import (
    CudaNdarrayConstant,
    CudaNdarraySharedVariable,
    CudaNdarrayVariable,
    float32_shared_constructor,
)

__all__ = [
    "CudaNdarray",
    "CudaNdarrayConstant",
    "CudaNdarraySharedVariable",
    "CudaNdarrayType",
    "CudaNdarrayVariable",
    "as_cuda_ndarray_variable",
    "basic_ops",
    "blas",
    "cuda_available",
    "cuda_enabled",
    "dnn",
    "float32_shared_constructor",
    "gpu_contiguous",
    "gpu_from_host",
    "host_from_gpu",
    "shared_constructor",
    "synchronize",
    "unuse",
    "use",
]

cuda_available = cuda_enabled = True


def use(device: str = "gpu", *args: Any, **kwargs: Any) -> None:
    """Compile functions for the device that a program asks for; `theano.config.device` gives it back."""
    config.device = device


def unuse() -> None:
    """Take note that a program wants the CPU again."""
    config.device = "cpu"


def synchronize() -> None:
    """Wait until all that functions were asked for is computed."""
    _synchronize(config.device)


class CudaNdarray(np.ndarray):
    """A float32 array, of the one kind that there is here."""

    def __new__(cls, value: Any) -> np.ndarray:  # type: ignore[misc]
        return np.asarray(value, np.float32)

    @staticmethod
    def zeros(shape: Any) -> np.ndarray:
        """Zeros."""
        return np.zeros(shape, np.float32)


shared_constructor = float32_shared_constructor

__getattr__, __dir__ = mirror(
    __name__,
    missing={
        "GpuOp": "define an operator with theano.Op, or wrap a function with theano.as_op",
        "mem_info": "no memory of a device is managed here",
    },
)
