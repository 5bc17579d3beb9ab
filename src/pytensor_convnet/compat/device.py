"""Which mode an old program's functions get: on a GPU that it asks for, mode CUDA; else PyTensor's.

Theano compiled every function for ``config.device``. Here a function whose program leaves the mode open, or asks for
FAST_RUN, is compiled in mode CUDA if the device is a GPU and there is one, and otherwise as PyTensor's settings say.
"""

import functools
import os
from typing import Any

import numpy as np
import pytensor
from pytensor.compile.mode import Mode, get_default_mode, get_mode

from pytensor_convnet.compat.mirror import note_once
from pytensor_convnet.cuda import DeviceUnavailable, cuda_mode
from pytensor_convnet.cuda.devices import VARIABLE, find_device


def is_gpu(device: str) -> bool:
    """Whether this is a name of Theano's for a GPU: 'gpu', 'gpu1', 'cuda0', ...

    Examples
    --------
    >>> is_gpu("gpu0"), is_gpu("cpu")
    (True, False)
    """
    return device.startswith(("gpu", "cuda", "opencl"))


@functools.cache
def gpu_mode(device: str) -> Mode | str:
    """Mode CUDA on the device of this name, or a sentence that says why not.

    A number at the end chooses among several GPUs, unless the environment variable `VARIABLE` does.
    """
    number = device.lstrip("abcdefghijklmnopqrstuvwxyz")
    name = f"cuda:{int(number)}" if number.isdigit() and VARIABLE not in os.environ else None
    try:
        find_device(name)
    except DeviceUnavailable as error:
        return str(error).partition(". ")[0]
    return cuda_mode(device=name)


def note_device(device: str) -> None:
    """Say once where a program that asks for a GPU runs."""
    if not is_gpu(device):
        return
    mode = gpu_mode(device)
    if isinstance(mode, str):
        note_once(
            "device",
            f"device={device}: {mode}. The program runs on this machine's CPU, with the same operators; nothing needs "
            "changing.",
        )


def open_mode(mode: Any, device: str) -> Mode | None:
    """Mode CUDA if a program leaves the mode open on a GPU; else None: the mode is as PyTensor has it."""
    left_open = mode is None and pytensor.config.mode in ("Mode", "FAST_RUN")
    if not is_gpu(device) or not (left_open or mode == "FAST_RUN" or mode is get_mode("FAST_RUN")):
        return None
    chosen = gpu_mode(device)
    return None if isinstance(chosen, str) else chosen


def default_mode(device: str) -> Mode:
    """The mode of functions whose program leaves it open."""
    return open_mode(None, device) or get_default_mode()


def synchronize(device: str) -> None:
    """Wait until the GPU, if there is one, has computed all it was asked for."""
    if open_mode("FAST_RUN", device) is None or find_device().type != "cuda":
        return
    import torch

    torch.cuda.synchronize()


class OnHost:
    """A function of mode CUDA whose results are NumPy's arrays, as those of Theano's functions were.

    Single numbers are left to be read when they are needed, so that a loop that prints a cost now and then never waits.

    Parameters
    ----------
    compiled : function of mode CUDA

    Notes
    -----
    Any other attribute is that of ``compiled``.
    """

    def __init__(self, compiled: Any):
        self.compiled = compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        results = self.compiled(*args, **kwargs)
        if isinstance(results, list | tuple):
            return [_on_host(result) for result in results]
        return _on_host(results)

    def __getattr__(self, name: str) -> Any:
        if name == "compiled" or name.startswith("__"):  # not there yet while unpickling; ways to copy are our own
            raise AttributeError(name)
        return getattr(self.compiled, name)


def _on_host(result: Any) -> Any:
    return np.asarray(result) if getattr(result, "ndim", 0) else result
