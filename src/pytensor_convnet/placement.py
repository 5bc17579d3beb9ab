"""Where images and parameters lie while a network learns: on the device that computes, or in the host's memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytensor.compile.mode import get_mode

from pytensor_convnet.cuda.devices import device_name, find_device
from pytensor_convnet.cuda.linker import CudaLinker
from pytensor_convnet.learning import ModeName
from pytensor_convnet.minibatches import LabelledImages, Part, SharedImages, StreamedImages

LARGEST_SHARE = 0.5
"""The share of a GPU's memory that images may take; the rest is for parameters and for what a network computes."""


def placed_images(parts: Sequence[Part], mode: ModeName, stream: bool | None = None) -> LabelledImages:
    """Labelled images, for functions that are compiled in ``mode``.

    Parameters
    ----------
    parts : sequence of (array, array)
        Images, float32 (number, channels, rows, columns), and their labels.
    mode : str, Mode or None
    stream : bool, optional
        Whether minibatches are streamed from the host. By default they are if the mode is "CUDA" and the images would
        take more than `LARGEST_SHARE` of the GPU's memory.

    Returns
    -------
    LabelledImages

    Examples
    --------
    >>> import numpy as np
    >>> part = np.zeros((5, 1, 2, 2), "float32"), np.zeros(5, "int32")
    >>> type(placed_images([part], "FAST_COMPILE")).__name__
    'SharedImages'
    """
    gpu = gpu_of(mode)
    if stream is None:
        size = sum(images.nbytes for images, _ in parts)
        stream = gpu is not None and size > LARGEST_SHARE * memory_of(gpu)
    return StreamedImages(parts, gpu) if stream else SharedImages(parts)


def gpu_of(mode: ModeName) -> str | None:
    """The GPU that functions compiled in ``mode`` run on, by torch's name for it; None if they run on the CPU.

    Examples
    --------
    >>> gpu_of("FAST_COMPILE") is None
    True
    """
    linker = get_mode(mode).linker
    if not isinstance(linker, CudaLinker):
        return None
    name = linker.device or device_name()
    return name if name.startswith("cuda") else None


def is_cuda(mode: ModeName) -> bool:
    """Whether ``mode`` is "CUDA", or that with settings of one's own.

    Examples
    --------
    >>> is_cuda("CUDA"), is_cuda("FAST_COMPILE")
    (True, False)
    """
    return isinstance(get_mode(mode).linker, CudaLinker)


def memory_of(gpu: str) -> int:
    """All memory of a GPU, in bytes; a `DeviceUnavailable` if there is none of that name."""
    device = find_device(gpu)
    import torch

    return torch.cuda.get_device_properties(device).total_memory


def values_soon(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of shared variables, as they are when what was begun until now is computed.

    Those that a device computes are arrays that wait for it when they are read (`numpy.asarray`), not now.

    Examples
    --------
    >>> import numpy as np, pytensor
    >>> values_soon({"w": pytensor.shared(np.ones(2))})
    {'w': array([1., 1.])}
    """
    found = {}
    for name, variable in variables.items():
        resident = getattr(variable.container, "resident", None)
        found[name] = variable.get_value() if resident is None else resident.soon()
    return found
