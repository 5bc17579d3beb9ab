"""Which device mode CUDA computes on, and what to tell who has none."""

import os
from importlib.util import find_spec
from typing import Any

VARIABLE = "PYTENSOR_CONVNET_DEVICE"
"""The environment variable that names the device."""


class DeviceUnavailable(RuntimeError):
    """Mode CUDA cannot be used here; the message says what is missing and how to get it."""


def device_name() -> str:
    """The name of the device, as torch has it: ``cuda`` unless `VARIABLE` says otherwise.

    Of several processes that ``torchrun`` started, each takes the GPU of its number on this machine.
    """
    named = os.environ.get(VARIABLE, "cuda")
    if named == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{int(os.environ['LOCAL_RANK'])}"
    return named


def find_device(name: str | None = None) -> Any:
    """The device as a ``torch.device``, with its number if it is a GPU.

    Parameters
    ----------
    name : str, optional
        As torch has it; by default `device_name`.

    Raises
    ------
    DeviceUnavailable
        torch, Triton or a GPU is missing.
    ValueError
        ``name`` is no device of torch.
    """
    name = name or device_name()
    if find_spec("torch") is None:
        raise DeviceUnavailable("mode CUDA needs torch, which is not installed: pip install 'pytensor-convnet[cuda]'")
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be one of torch's ('cuda', 'cuda:1', 'cpu'), got {name!r}") from error
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"device must be a CUDA GPU or 'cpu', got {name!r}")
    if device.type == "cpu":
        return device
    without_gpu = f"Without a GPU the mode can be tried on torch's CPU device: set {VARIABLE}=cpu."
    if find_spec("triton") is None:
        raise DeviceUnavailable("mode CUDA needs Triton, which is not installed: pip install 'pytensor-convnet[cuda]'")
    if not torch.cuda.is_available():
        built = "was built for CUDA but finds no GPU" if torch.version.cuda else "was built without CUDA"
        raise DeviceUnavailable(
            f"mode CUDA needs an NVIDIA GPU, but torch {torch.__version__} {built}. Check the driver with nvidia-smi, "
            f"and install a torch for CUDA as pytorch.org says. {without_gpu}"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise DeviceUnavailable(f"device {name} does not exist: this machine has {torch.cuda.device_count()} GPU(s)")
    return torch.device("cuda", index)
