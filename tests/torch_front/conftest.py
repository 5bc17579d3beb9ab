"""The front door's tests run on a GPU where there is one; else its operators run in Triton's interpreter, on the CPU.

Triton reads ``TRITON_INTERPRET`` when it is imported, so it is set here, before any test module imports Triton.
"""

import os
from importlib.util import find_spec

import pytest

if find_spec("torch") and find_spec("triton"):
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


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
