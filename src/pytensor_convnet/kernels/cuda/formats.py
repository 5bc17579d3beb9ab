"""Physical formats of logical bc01 tensors, told from strides.

The index of a tensor is always ``[batch, channel, row, column]``. Where its elements lie in memory is its format:

=============  ==================================  ==========================================
format         order in memory, slowest first      whose it is
=============  ==================================  ==========================================
bc01           batch, channels, rows, columns      Theano's and torch's
channels_last  batch, rows, columns, channels      cuDNN's tensor cores and JAX's users
batch_last     channels, rows, columns, batch      cuda-convnet's c01b, and these kernels'
=============  ==================================  ==========================================

Changing the *logical* order, as FilterActs does with ``dimshuffle``, is a view and costs nothing.
"""

from collections.abc import Sequence
from math import gcd

import torch

from pytensor_convnet.geometry import format_shape
from pytensor_convnet.kernels.cuda.checks import check_bc01, check_tensor

AXES = {"bc01": (0, 1, 2, 3), "channels_last": (0, 2, 3, 1), "batch_last": (1, 2, 3, 0)}
"""The logical axes in the order of memory, slowest first."""

FORMATS = tuple(AXES)

UNIT = 16
"""Kernels count lengths and strides in units of so many elements, or of 8, 4 or 1, and are told the unit: so they know
that rows begin at multiples of it, and move 16 bytes at a time."""


def check_format(format: str | None, name: str = "memory_format", *, optional: bool = True) -> None:
    """Raise ValueError unless it is a format, or, where that is ``optional``, None: that of the operand."""
    if format not in FORMATS and not (optional and format is None):
        raise ValueError(f"{name} must be one of {', '.join(FORMATS)}{', or None' * optional}, got {format!r}")


def strides(shape: Sequence[int], format: str) -> tuple[int, ...]:
    """The strides, in elements, of a dense tensor of ``shape`` in ``format``.

    Examples
    --------
    >>> strides((8, 3, 5, 7), "batch_last")
    (1, 280, 56, 8)
    """
    check_format(format, "format", optional=False)
    if len(shape) != 4:
        raise ValueError(
            f"shape must be four lengths (batch, channels, rows, columns), got {format_shape(shape) or 'none'}"
        )
    steps, step = [0] * 4, 1
    for axis in reversed(AXES[format]):
        steps[axis] = step
        step *= max(shape[axis], 1)
    return tuple(steps)


def pixel_step(tensor: torch.Tensor) -> int:
    """Elements from a pixel to the next in batch-last memory: the batch, or more where it was filled up."""
    steps = [tensor.stride(axis) for axis in (1, 2, 3) if tensor.shape[axis] > 1]
    return min(steps, default=-(-tensor.shape[0] // UNIT) * UNIT)  # of one pixel any that suits the copying engine


def memory_format(tensor: torch.Tensor) -> str | None:
    """The format in which a tensor is dense, or None.

    The stride of an axis of length 1 says nothing about memory. It decides, though, where several formats fit (an image
    alone is dense in bc01 and in batch_last), as torch's own functions keep it meaningful; where it is no stride of any
    of them, the first of `FORMATS` is taken.

    Examples
    --------
    >>> memory_format(torch.empty(3, 5, 7, 8).permute(3, 0, 1, 2))
    'batch_last'
    """
    check_tensor(tensor, "tensor")
    if tensor.ndim != 4:
        return None
    dense = [(name, strides(tensor.shape, name)) for name in FORMATS]
    for name, steps in dense:
        if tensor.stride() == steps:
            return name
    longer = [axis for axis in range(4) if tensor.shape[axis] > 1]
    for name, steps in dense:
        if all(tensor.stride(axis) == steps[axis] for axis in longer) or not tensor.numel():
            return name
    return None


def empty(shape: Sequence[int], format: str, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """An uninitialised logical bc01 tensor whose memory is in ``format``.

    Parameters
    ----------
    shape : sequence of int, (batch, channels, rows, columns)
    format : {'bc01', 'channels_last', 'batch_last'}
    dtype : torch dtype
    device : torch device or str

    Returns
    -------
    tensor

    Raises
    ------
    ValueError
        ``shape`` is not four lengths, or ``format`` none of those above.
    """
    return torch.empty_strided(tuple(shape), strides(shape, format), dtype=dtype, device=device)


def fits(tensor: torch.Tensor, format: str) -> bool:
    """Whether a tensor's elements lie in memory as ``format`` has them, whatever strides axes of length 1 have."""
    steps = strides(tensor.shape, format)
    return all(length <= 1 or have == want for length, have, want in zip(tensor.shape, tensor.stride(), steps))


def is_wide(*tensors: torch.Tensor) -> bool:
    """Whether offsets take 64 bits: within any of the tensors, or as far beyond as a tile or a filled-up batch goes."""
    lasts = (sum((length - 1) * stride for length, stride in zip(x.shape, x.stride())) for x in tensors)
    return any(last + max(2**24, x.shape[-1] * 1024) >= 2**31 for last, x in zip(lasts, tensors))


def to_format(tensor: torch.Tensor, format: str) -> torch.Tensor:
    """``tensor`` itself, or a view of its memory, where it is in ``format`` already, else a copy that is.

    The copy is torch's own; `change_format` has a kernel for it.

    Parameters
    ----------
    tensor : tensor of any dtype, (batch, channels, rows, columns)
        With any strides.
    format : {'bc01', 'channels_last', 'batch_last'}

    Returns
    -------
    tensor
        Of the same shape and dtype.

    Raises
    ------
    ValueError
        ``tensor`` is no torch tensor of four axes, or ``format`` none of those above.
    """
    check_bc01(tensor, "tensor")
    steps = strides(tensor.shape, format)
    if tensor.stride() == steps:
        return tensor
    if fits(tensor, format):
        return tensor.as_strided(tensor.shape, steps)
    return empty(tensor.shape, format, tensor.dtype, tensor.device).copy_(tensor)


def unit_dividing(*numbers: int) -> int:
    """The largest of 16, 8, 4 and 1 that divides all.

    Examples
    --------
    >>> unit_dividing(32, 1024), unit_dividing(32, 12), unit_dividing(32, 6)
    (16, 4, 1)
    """
    unit = gcd(UNIT, *numbers)
    return unit if unit >= 4 else 1


def unit_of(tensor: torch.Tensor) -> int:
    """The largest of 16, 8, 4 and 1 that divides batch and strides of a batch-last tensor; 1 elsewhere."""
    return unit_dividing(tensor.shape[0], *tensor.stride()[1:]) if tensor.stride(0) == 1 else 1
