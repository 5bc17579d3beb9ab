"""``pylearn2.sandbox.cuda_convnet``: wrappers of cuda-convnet's kernels, by `pytensor_convnet.cuda_convnet`."""

from typing import Any

from pytensor_convnet.compat.mirror import mirror


def check_cuda(*args: Any, **kwargs: Any) -> None:
    """pylearn2 refused here to go on without a GPU; every operator runs on what there is."""


def cuda_convnet_available() -> bool:
    """True: the operators can be used."""
    return True


__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.cuda_convnet")
