"""The front door's tests run on a GPU where there is one, else its operators in Triton's interpreter, on the CPU."""

import pytest


@pytest.fixture(scope="session")
def device():
    """Where tests put their tensors."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def kernels(monkeypatch):
    """Let the functions take the kernels for tensors on the CPU, too."""
    from pytensor_convnet.torch import convolution, pooling

    for module in (convolution, pooling):
        monkeypatch.setattr(module, "is_for_kernels", lambda tensor, dtypes: tensor.dtype in dtypes)
