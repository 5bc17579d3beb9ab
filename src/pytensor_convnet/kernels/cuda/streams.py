"""Streams within functions of these kernels: what nothing that follows needs may run beside it.

The gradient of filters is needed when parameters are updated, at the end of a step; what a step goes on with is the
gradient of images. The small kernels between two layers leave multiprocessors idle, which the former fills.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

_held: ContextVar[list[torch.Tensor] | None] = ContextVar("held", default=None)
_allowed = ContextVar("allowed", default=False)


@contextmanager
def awaited(device: torch.device) -> Iterator[None]:
    """Let what is `allowed` within run beside what follows; at the end the present stream waits for it."""
    held: list[torch.Tensor] = []
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
        if held:  # after an error, too, or else the end of the capture would be another and hide it
            torch.cuda.current_stream(device).wait_stream(_stream(device))


@contextmanager
def allowed(is_so: bool) -> Iterator[None]:
    """Allow what is `beside` within to run late: whoever calls reads nothing of it before the end of `awaited`."""
    token = _allowed.set(is_so or _allowed.get())
    try:
        yield
    finally:
        _allowed.reset(token)


@contextmanager
def beside(*read: torch.Tensor | None) -> Iterator[None]:
    """Launch what is within on another stream, beside what follows, while a CUDA graph is captured that allows it.

    It begins when what was launched before has ended. Whoever allowed it waits for its end. Elsewhere it is launched
    where it stands.

    Parameters
    ----------
    read : tensor or None
        What is read within: memory that is not given to others before that has ended.
    """
    held, tensors = _held.get(), [tensor for tensor in read if tensor is not None]
    if held is None or not _allowed.get() or not torch.cuda.is_current_stream_capturing():
        yield
        return
    held.extend(tensors)
    stream = _stream(tensors[0].device)
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    token = _allowed.set(False)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        _allowed.reset(token)


def late_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product of two matrices, by torch, beside what follows; who calls reads it after the end of `awaited`."""
    with allowed(True), beside(a, b):
        return a @ b


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
