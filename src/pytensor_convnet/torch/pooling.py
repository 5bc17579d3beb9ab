"""`max_pool2d` and `avg_pool2d` as `torch.nn.functional` has them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytensor_convnet.geometry import as_pair
from pytensor_convnet.torch.placing import HAS_TRITON, is_for_kernels

if HAS_TRITON:
    from pytensor_convnet.torch import pooling_operators as operators

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NUMBERS = (*FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Lengths = int | tuple[int, int]


def max_pool2d(
    input: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Lengths = 0,
    dilation: Lengths = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window: `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    input : tensor, (batch, channels, rows, columns) or (channels, rows, columns)
        Of floats or integers. The result is in its physical format: bc01, channels-last, or batch-last.
    kernel_size : int or pair of int
    stride : int or pair of int, optional
        By default ``kernel_size``.
    padding : int or pair of int
        Less than ``kernel_size``; padding never wins.
    dilation : int or pair of int
        With other than 1, torch's own function is called.
    ceil_mode : bool
        Whether windows count that hang over the edge, as long as they start within.
    return_indices : bool
        If so, torch's own function is called.

    Returns
    -------
    tensor
        Or two, with ``return_indices``.

    Raises
    ------
    ValueError
        On a GPU, windows cannot slide over ``input``; the message has the shapes that met.

    Notes
    -----
    Kept for the gradient is one byte a window (8 where windows have more than 256 taps), not the images. Ties go to the
    first maximum in row-major order, and NaN wins, as torch has it.
    """
    if return_indices or as_pair(dilation, "dilation", least=1) != (1, 1) or not is_for_kernels(input, NUMBERS):
        torchs: Any = F.max_pool2d
        return torchs(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    windows = windows_of(kernel_size, stride, padding)
    maxima, _ = operators.max_pool2d(_batch(input), *windows, ceil_mode)
    return maxima if input.ndim == 4 else maxima[0]


def avg_pool2d(
    input: Tensor,
    kernel_size: Lengths,
    stride: Lengths | None = None,
    padding: Lengths = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The average of every window: `torch.nn.functional.avg_pool2d`.

    Parameters
    ----------
    input : tensor, (batch, channels, rows, columns) or (channels, rows, columns)
        Of floats. The result is in its physical format: bc01, channels-last, or batch-last.
    kernel_size, padding : int or pair of int
    stride : int or pair of int, optional
        By default ``kernel_size``.
    ceil_mode : bool
        Whether windows count that hang over the edge, as long as they start within.
    count_include_pad : bool
        Whether a sum is divided by all pixels of its window, or by those inside the image.
    divisor_override : int, optional
        What sums are divided by instead.

    Returns
    -------
    tensor

    Raises
    ------
    ValueError
        On a GPU, windows cannot slide over ``input``; the message has the shapes that met.
    """
    if not is_for_kernels(input, FLOATS):
        return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    mode = "average_inc_pad" if count_include_pad else "average_exc_pad"
    if divisor_override is not None:
        mode = "sum"
        if divisor_override == 0:
            raise ValueError("divisor_override must not be zero")
    maps = operators.average_pool2d(_batch(input), *windows_of(kernel_size, stride, padding), ceil_mode, mode)
    if divisor_override is not None:
        maps = maps / divisor_override
    return maps if input.ndim == 4 else maps[0]


def _batch(input: Tensor) -> Tensor:
    """One image as a batch of one."""
    if input.ndim not in (3, 4):
        raise ValueError(
            f"input must be (batch, channels, rows, columns) or (channels, rows, columns), got {tuple(input.shape)}"
        )
    return input if input.ndim == 4 else input[None]


def windows_of(kernel_size: Any, stride: Any, padding: Any) -> tuple[list[int], list[int], list[int]]:
    """Window, stride and padding as the operators take them."""
    window = as_pair(_scalar(kernel_size), "kernel_size", least=1)
    step = window if stride is None or stride == [] else as_pair(_scalar(stride), "stride", least=1)
    return list(window), list(step), list(as_pair(_scalar(padding), "padding", least=0))


def _scalar(lengths: Any) -> Any:
    """A sequence of one length, which torch admits, as that length."""
    return lengths[0] if isinstance(lengths, tuple | list) and len(lengths) == 1 else lengths
