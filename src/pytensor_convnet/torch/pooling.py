"""`max_pool2d` and `avg_pool2d` as `torch.nn.functional` has them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytensor_convnet.torch.checks import check_flag, check_images, check_tensors, check_windows, pair_of
from pytensor_convnet.torch.placing import HAS_TRITON, is_for_kernels

if HAS_TRITON:
    from pytensor_convnet.torch import pooling_operators as operators

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NUMBERS = (*FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Lengths = int | tuple[int, int]
NAMES = ("kernel_size", "stride", "padding")


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
        ``input`` is no tensor. On a GPU, also where windows cannot slide over it, or arguments are none of those
        above; the message has the shapes that met.

    Notes
    -----
    Kept for the gradient is one byte a window (8 where windows have more than 256 taps), not the images. Ties go to the
    first maximum in row-major order, and NaN wins, as torch has it.
    """
    check_tensors(input=input)
    check_flag(return_indices, "return_indices")
    if return_indices or pair_of(dilation, "dilation", 1) != (1, 1) or not is_for_kernels(input, NUMBERS):
        torchs: Any = F.max_pool2d
        return torchs(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    windows = _checked_windows(input, kernel_size, stride, padding, ceil_mode)
    maxima, _ = operators.max_pool2d(input if input.ndim == 4 else input[None], *windows, ceil_mode)
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
        ``input`` is no tensor. On a GPU, also where windows cannot slide over it, or arguments are none of those
        above; the message has the shapes that met.
    """
    check_tensors(input=input)
    if not is_for_kernels(input, FLOATS):
        return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    check_flag(count_include_pad, "count_include_pad")
    mode = "average_inc_pad" if count_include_pad else "average_exc_pad"
    if divisor_override is not None:
        mode = "sum"
        if not isinstance(divisor_override, int) or divisor_override == 0:
            raise ValueError(f"divisor_override must be an integer other than zero, or None, got {divisor_override!r}")
    windows = _checked_windows(input, kernel_size, stride, padding, ceil_mode)
    maps = operators.average_pool2d(input if input.ndim == 4 else input[None], *windows, ceil_mode, mode)
    if divisor_override is not None:
        maps = maps / divisor_override
    return maps if input.ndim == 4 else maps[0]


def _checked_windows(input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any) -> Any:
    """Window, stride and padding as the operators take them, which can slide over the images."""
    check_images(input)
    check_flag(ceil_mode, "ceil_mode")
    windows = window, _, margin = windows_of(kernel_size, stride, padding)
    check_windows("input", input.shape, window, margin, ceil_mode, NAMES)
    return windows


def windows_of(kernel_size: Any, stride: Any, padding: Any, names: tuple[str, str, str] = NAMES) -> Any:
    """Window, stride and padding, which the caller knows by ``names``, as the operators take them."""
    size_name, stride_name, pad_name = names
    window = pair_of(kernel_size, size_name, 1)
    step = window if stride is None or stride in ([], ()) else pair_of(stride, stride_name, 1)
    return list(window), list(step), list(pair_of(padding, pad_name, 0))
