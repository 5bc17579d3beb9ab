"""Streams within functions of these kernels: what nothing that follows needs may run beside it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
    yield
