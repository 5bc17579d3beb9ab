"""Where images lie while a network learns from them: whole on the device that computes, or streamed from the host."""

import os

import numpy as np
from pytensor.compile.mode import get_mode

from pytensor_convnet.learning import ModeName
from pytensor_convnet.minibatches import LabelledImages, SharedImages, StreamedImages

LARGEST_SHARE = 0.5
"""The share of a GPU's memory that images may take; the rest is for parameters and for what a network computes."""


def placed_images(images: np.ndarray, labels: np.ndarray, mode: ModeName, stream: bool | None = None) -> LabelledImages:
    """Labelled images, for functions that are compiled in ``mode``.

    Parameters
    ----------
    images : float32 array, (number, channels, rows, columns)
    labels : integer array, (number,)
    mode : str, Mode or None
    stream : bool, optional
        Whether minibatches are streamed from the host. By default they are if the mode is "CUDA" and the images would
        take more than `LARGEST_SHARE` of the GPU's memory.

    Returns
    -------
    LabelledImages

    Examples
    --------
    >>> type(placed_images(np.zeros((5, 1, 2, 2), "float32"), np.zeros(5), "FAST_COMPILE")).__name__
    'SharedImages'
    """
    gpu = gpu_of(mode)
    if stream is None:
        stream = gpu is not None and images.nbytes > LARGEST_SHARE * memory_of(gpu)
    return StreamedImages(images, labels, gpu) if stream else SharedImages(images, labels)


def gpu_of(mode: ModeName) -> str | None:
    """The GPU that functions compiled in ``mode`` run on, by torch's name for it; None if they run on the CPU.

    Examples
    --------
    >>> gpu_of("FAST_COMPILE") is None
    True
    """
    if not runs_on_torch(mode):
        return None
    rank = os.environ.get("LOCAL_RANK")
    device = os.environ.get("PYTENSOR_CONVNET_DEVICE") or ("cuda" if rank is None else f"cuda:{rank}")
    return device if device.startswith("cuda") else None


def runs_on_torch(mode: ModeName) -> bool:
    """Whether ``mode`` is "CUDA", or a variant of it."""
    return type(get_mode(mode).linker).__module__.startswith("pytensor_convnet.cuda")


def memory_of(gpu: str) -> int:
    """All memory of a GPU, in bytes."""
    import torch

    return torch.cuda.get_device_properties(gpu).total_memory
