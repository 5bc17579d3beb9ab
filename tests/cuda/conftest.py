"""The tests of mode CUDA run on a GPU where there is one, with capture; else on torch's CPU device, without.

Our kernels are then the CPU's, but where a test asks for Triton's interpreter.
"""

from importlib.util import find_spec

import pytest

from pytensor_convnet.cuda import cuda_mode

if find_spec("torch"):
    import torch

    if find_spec("triton"):
        import pytensor_convnet.kernels.cuda  # noqa: F401  (before a test says that kernels are not interpreted)


@pytest.fixture(scope="session")
def device():
    """Where functions live."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def cpu_kernels(monkeypatch):
    """On torch's CPU device our Ops run the CPU's kernels."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "0")


@pytest.fixture
def interpreter(monkeypatch, cpu_kernels):
    """Our Ops run Triton's kernels, in its interpreter where there is no GPU."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def mode(device):
    """Mode CUDA, with sums as exact as NumPy's, and without torch's compiler, which takes seconds for each function."""
    return cuda_mode("ieee", device, compile=False)
