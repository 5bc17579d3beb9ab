"""Streams within functions of these kernels: what nothing that follows needs may run beside it.

Gradients of filters, of biases and of dense layers' weights are needed when parameters are updated, at the end of a
step; what a step goes on with is the gradient of images. The small kernels between two layers leave multiprocessors
idle, which the former fill. Where a gradient of filters is needed at once, it may still run beside that of images.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import torch

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass
class _Late:
    """What is late within `awaited`: what it reads, and products (two factors, result) still to be launched."""

    held: list[torch.Tensor] = field(default_factory=list)
    products: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    def launch_products(self) -> list[torch.Tensor]:
        """Launch them on the present stream, and give all these tensors."""
        launched, self.products = self.products, []
        for a, b, product in launched:
            _multiply(a, b, product)
        return [tensor for tensors in launched for tensor in tensors]


_late: ContextVar[_Late | None] = ContextVar("late", default=None)
_allowed = ContextVar("allowed", default=False)


@contextmanager
def awaited(device: torch.device) -> Iterator[None]:
    """Let what is `allowed` within run beside what follows; at the end the present stream waits for it."""
    late = _Late()
    token = _late.set(late)
    try:
        yield
        late.launch_products()
    finally:
        _late.reset(token)
        if late.held:  # after an error, too, or else the end of the capture would be another and hide it
            torch.cuda.current_stream(device).wait_stream(_stream(device, "late"))


@contextmanager
def allowed(is_so: bool) -> Iterator[None]:
    """Allow what is `beside` within to run late: whoever calls reads nothing of it before the end of `awaited`."""
    token = _allowed.set(is_so or _allowed.get())
    try:
        yield
    finally:
        _allowed.reset(token)


@contextmanager
def beside(*read: torch.Tensor | None, small: bool = False) -> Iterator[None]:
    """Launch what is within on another stream, beside what follows, while a CUDA graph is captured that allows it.

    It begins when what was launched before has ended. Whoever allowed it waits for its end. Elsewhere it is launched
    where it stands.

    Parameters
    ----------
    read : tensor or None
        What is read within: memory that is not given to others before that has ended.
    small : bool
        What is within does little, and what is to run beside after it should not wait for late products.
    """
    late, tensors = _late.get(), [tensor for tensor in read if tensor is not None]
    if late is None or not _is_allowed_now():
        yield
        return
    late.held.extend(tensors)
    stream = _stream(tensors[0].device, "late")
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    token = _allowed.set(False)
    try:
        with torch.cuda.stream(stream):
            yield
            if not small:
                late.held.extend(late.launch_products())
    finally:
        _allowed.reset(token)


def late_product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The product of two matrices, by torch, beside what follows; who calls reads it after the end of `awaited`.

    Factors of three axes are parts, whose products are summed. The product is launched behind the next that is `beside`
    and not small: that is the gradient of a convolution's filters, which fills a GPU while the small kernels between
    two layers do not, and is to begin as soon as these do.

    Parameters
    ----------
    a : tensor, (rows, terms) or (parts, rows, terms)
    b : tensor, (terms, columns) or (parts, terms, columns)
    dtype : torch dtype
        Of the product: that of the factors, if they have two axes.

    Returns
    -------
    tensor, (rows, columns)

    Raises
    ------
    RuntimeError
        Torch's own, when the product is launched, where factors or ``dtype`` do not fit.
    """
    product = torch.empty((a.shape[-2], b.shape[-1]), dtype=dtype, device=a.device)
    late = _late.get()
    if late is None or not _is_capturing():
        _multiply(a, b, product)
    else:
        late.products.append((a, b, product))
    return product


def _multiply(a: torch.Tensor, b: torch.Tensor, product: torch.Tensor) -> None:
    if a.ndim == 2:
        torch.mm(a, b, out=product)
    else:
        torch.sum(torch.bmm(a, b), 0, dtype=product.dtype, out=product)


def _is_allowed_now() -> bool:
    return _late.get() is not None and _allowed.get() and _is_capturing()


def both(
    of_images: Callable[[], First], of_filters: Callable[[], Second], *read: torch.Tensor | None, device: torch.device
) -> tuple[First, Second]:
    """What two functions give: the second `beside` what follows, where that is allowed, or beside the first.

    That is while a CUDA graph is captured; elsewhere one is launched after the other. The second begins when what was
    launched before has ended. Where it ran beside the first, the present stream waits for it.

    Parameters
    ----------
    read : tensor or None
        What the second reads.
    """
    if _is_allowed_now():
        first = of_images()
        with beside(*read):
            return first, of_filters()
    if not _is_capturing():
        return of_images(), of_filters()
    # Each stream has a side of its own: memory of what ran there is given again to what runs there, after its readers.
    before = torch.cuda.current_stream(device)
    side = _stream(device, f"side of {before.cuda_stream}")
    side.wait_stream(before)
    try:
        with torch.cuda.stream(side):
            second = of_filters()
        return of_images(), second
    finally:  # after an error, too, or else the end of the capture would be another and hide it
        before.wait_stream(side)


def _is_capturing() -> bool:
    """Whether a CUDA graph is captured; a torch without CUDA cannot be asked."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@cache
def _stream(device: torch.device, name: str) -> torch.cuda.Stream:
    """A stream of that name."""
    return torch.cuda.Stream(device)
