"""The CUDA kernels' tests run on a GPU where there is one, and else in Triton's interpreter, on the CPU."""

from importlib.util import find_spec

import pytest

if find_spec("torch") and find_spec("triton"):
    import torch


@pytest.fixture(scope="session")
def device():
    """Where tests put their tensors."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def poisoned(monkeypatch):
    """New tensors hold NaN, or 101 where they are of bytes, so that an element read or left unwritten shows."""

    def poisoning(create):
        def created(*arguments, **settings):
            tensor = create(*arguments, **settings)
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            return tensor.fill_(101) if tensor.dtype == torch.uint8 else tensor

        return created

    for name in ("empty", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))


@pytest.fixture
def hopper():
    """A GPU that computes windows."""
    from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile

    if not torch.cuda.is_available() or not can_compile(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip("windows are computed by a Hopper GPU, with NVRTC")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def on_so_many(monkeypatch):
    """Plans of filter gradients for a GPU of so many multiprocessors, among which rows of maps are shared."""
    from pytensor_convnet.kernels.cuda import window_grad_kernel

    def planned(multiprocessors):
        monkeypatch.setattr(window_grad_kernel, "MULTIPROCESSORS", multiprocessors)
        window_grad_kernel.window_grad_plan.cache_clear()

    yield planned
    window_grad_kernel.window_grad_plan.cache_clear()
