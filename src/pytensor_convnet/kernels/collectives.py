"""Means over processes by torch.distributed, for torch tensors on any device and for NumPy arrays.

Floor: every process sends and receives 2 (N - 1) / N times the tensors' bytes. On one host the latency of a collective
(tens of microseconds) is more than that for the gradients of a small network, so tensors of one dtype go in one.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np


class LostProcess(RuntimeError):
    """Another process of the run has stopped, or does not answer."""


_rehearsing = ContextVar("rehearsing", default=False)


@contextmanager
def rehearsal() -> Iterator[None]:
    """Let means be this process's own meanwhile, and wait for nobody.

    For runs that other processes need not make at the same time, such as those before a CUDA graph is captured: a
    process may know the shapes of its share already, where another has to capture new ones.
    """
    token = _rehearsing.set(True)
    try:
        yield
    finally:
        _rehearsing.reset(token)


def process_count() -> int:
    """How many processes take part: those of torch.distributed's default group, else this one alone.

    Torch is not imported to find out: whoever joined a group has imported it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()


def all_mean(tensors: Sequence[Any]) -> list[Any]:
    """The mean of each tensor over all processes.

    One collective for each dtype, in the order in which dtypes first appear; so every process must give tensors of the
    same dtypes and shapes in the same order. Nothing is read by the host: on a GPU all of it can be captured in a CUDA
    graph once NCCL has been used.

    Parameters
    ----------
    tensors : sequence of torch tensors
        Floats of any shape and memory format, on one device.

    Returns
    -------
    list of torch tensors
        New, contiguous ones, of the same shapes, which share no memory.

    Raises
    ------
    LostProcess
        Another process has stopped, or does not answer within the group's timeout. Of tensors on a GPU the host
        learns that later, from NCCL's watchdog.
    """
    import torch

    count = 1 if _rehearsing.get() else process_count()
    results: list[Any] = [None] * len(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
        together = torch.cat([tensors[place].reshape(-1) for place in places])
        if count > 1:
            together /= count  # before summing, lest float16 overflow
            _sum_over_processes(together)
        # Copies, since torch's own operators may not return views of one tensor.
        pieces = torch.split_with_sizes_copy(together, [tensors[place].numel() for place in places])
        for place, piece in zip(places, pieces):
            results[place] = piece.view(tensors[place].shape)
    return results


def all_mean_of_arrays(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`all_mean` of NumPy arrays; without other processes, copies of them, and torch is not needed."""
    if process_count() == 1:
        return [np.array(array, order="C") for array in arrays]
    import torch

    # Torch refuses negative strides and warns of arrays that may not be written, though it only reads them here.
    tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays]
    return [mean.numpy() for mean in all_mean(tensors)]


def _sum_over_processes(tensor: Any) -> None:
    """Replace ``tensor`` by its sum over all processes."""
    import torch.distributed

    try:
        torch.distributed.all_reduce(tensor)
    except RuntimeError as error:
        if tensor.is_cuda and not isinstance(error, torch.distributed.DistError):
            raise  # about the GPU, not about processes
        raise lost_process(error) from error


def lost_process(error: Exception) -> LostProcess:
    """What torch.distributed says when a process is lost, in one line that says what happened."""
    import torch.distributed

    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    # "[.../pair.cc:537] Connection closed by peer [127.0.0.1]:8942. This is typically caused by ..."
    reason = re.sub(r"^\[[^]]*\] *|\. This is typically.*", "", (str(error).splitlines() or [type(error).__name__])[0])
    return LostProcess(f"process {rank} of {count}: another process has stopped or does not answer ({reason})")
