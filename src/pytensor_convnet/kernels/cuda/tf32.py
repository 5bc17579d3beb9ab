"""Whether torch may multiply float32 in tf32, by whichever of its two interfaces that was set.

Since 2.9 there is beside the flags ``allow_tf32`` a precision of everything, of a library, and of an operation of it,
each that of the one before unless it was set itself. A flag that no longer says the same cannot be read: torch raises.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch

HAS_PRECISIONS = hasattr(torch.backends.cudnn, "conv")
"""Whether this torch has the newer interface."""


SETTINGS = RLock()
"""Held by who changes settings, which are the process's, for a while: autograd has a thread for each device."""


def allows_tf32_convolutions() -> bool:
    """Whether cuDNN may compute convolutions of float32 in tf32."""
    cudnn: Any = torch.backends.cudnn
    with SETTINGS:
        return cudnn.conv.fp32_precision == "tf32" if HAS_PRECISIONS else cudnn.allow_tf32


@contextmanager
def tf32_convolutions(allowed: bool) -> Iterator[None]:
    """Let cuDNN compute convolutions in tf32, or not, meanwhile; every setting is put back as it was.

    What a precision reads is what it was set to itself only if the one before reads otherwise. So those before are set
    first: one that then still reads otherwise was set itself, and one that does not need not be.
    """
    changed = []
    with SETTINGS:
        try:
            for place, name, value in _settings(allowed):
                before = getattr(place, name)
                if before != value and allows_tf32_convolutions() != allowed:
                    setattr(place, name, value)
                    changed.append((place, name, before))
            yield
        finally:
            for place, name, before in reversed(changed):
                setattr(place, name, before)


def _settings(allowed: bool) -> list[tuple[Any, str, Any]]:
    """What may have to be set to allow tf32 or not, each by place, name and value."""
    cudnn: Any = torch.backends.cudnn
    if not HAS_PRECISIONS:
        return [(cudnn, "allow_tf32", allowed)]
    everything: Any = torch.backends
    inherited = [] if everything.fp32_precision == "none" else [everything]
    return [(place, "fp32_precision", "tf32" if allowed else "ieee") for place in (*inherited, cudnn, cudnn.conv)]


@contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Let cuBLAS multiply matrices in tf32, or not, meanwhile: by level and precision, both of which compilers read."""
    backends: Any = torch.backends
    libraries = (backends.cuda, backends.mkldnn) if HAS_PRECISIONS else ()
    places = [library.matmul for library in libraries if hasattr(library, "matmul")]
    precisions = [_own_precision(place) for place in places]
    try:
        level = torch.get_float32_matmul_precision()
    except RuntimeError:  # it says the opposite of a precision
        level = "highest" if backends.cuda.matmul.fp32_precision == "tf32" else "high"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(level)
        for place, precision in zip(places, precisions, strict=True):
            place.fp32_precision = precision


def _own_precision(place: Any) -> str:
    """What a precision was set to itself; ``"none"`` if it is that of everything, and so follows when that changes."""
    everything: Any = torch.backends
    read, before = place.fp32_precision, everything.fp32_precision
    if read != before:
        return read
    with SETTINGS:
        everything.fp32_precision = "tf32" if before == "ieee" else "ieee"
        try:
            return read if place.fp32_precision == read else "none"
        finally:
            everything.fp32_precision = before
