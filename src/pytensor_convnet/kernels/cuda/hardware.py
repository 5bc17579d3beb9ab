"""What kernels and estimates need to know of a GPU: what it can do, and an H100's numbers."""

import functools

import torch
import triton

MULTIPROCESSORS = 132
CLOCK = 1.7e9
"""Cycles a second, under load."""

SHARED_BYTES, REGISTERS, THREADS = 227 * 1024, 65536, 2048
"""Of a multiprocessor."""


def capability_of(device: torch.device) -> tuple[int, int]:
    """The compute capability of an NVIDIA GPU; of tensors without memory, of that for which kernels are compiled.

    (0, 0) of anything else.
    """
    if device.type == "meta":
        target = triton.runtime.driver.active.get_current_target()
        return divmod(target.arch, 10) if target.backend == "cuda" else (0, 0)
    return _capability(device.index) if device.type == "cuda" else (0, 0)


@functools.cache
def _capability(index: int | None) -> tuple[int, int]:
    able = torch.version.hip is None and torch.cuda.is_available()
    return torch.cuda.get_device_capability(index) if able else (0, 0)
