"""`conv2d` as `torch.nn.functional` has it, and `conv_max_pool2d`, the layer that convolutional networks repeat."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytensor_convnet.geometry import as_count, as_pair
from pytensor_convnet.torch.placing import HAS_TRITON, is_for_kernels
from pytensor_convnet.torch.pooling import Lengths, max_pool2d, windows_of

if HAS_TRITON:
    from pytensor_convnet.torch import conv_pool_operators
    from pytensor_convnet.torch import convolution_operators as operators

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
"""Functions that never decrease, so that they may be taken of maxima as well as before."""


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Lengths | str = 0,
    dilation: Lengths = 1,
    groups: int = 1,
    *,
    precision: str | None = None,
) -> Tensor:
    """Correlate images with filters: `torch.nn.functional.conv2d`.

    Parameters
    ----------
    input : tensor, (batch, channels, rows, columns) or (channels, rows, columns)
        Of float32, bfloat16 or float16 (for others torch's own function is called). The result is in its physical
        format: bc01, channels-last, or batch-last (`to_batch_last`).
    weight : tensor, (filters, channels // groups, rows, columns)
    bias : tensor, (filters,), optional
    stride, dilation : int or pair of int
    padding : int, pair of int, 'valid' or 'same'
    groups : int
    precision : {'medium', 'high', 'ieee'}, optional
        How float32 is multiplied, on a GPU: with relative errors of at most 1e-3 (as tf32 has them), 2e-5, or 1e-6. By
        default what ``torch.backends.cudnn.allow_tf32`` says: 'medium' or 'ieee'.

    Returns
    -------
    tensor, (batch, filters, rows, columns) or (filters, rows, columns)

    Raises
    ------
    ValueError
        On a GPU, shapes or settings do not fit; the message has the shapes that met and the rule.

    Notes
    -----
    The first call with a shape on a GPU measures which kernel is fastest for it, cuDNN's among them, and remembers it
    on disk; ``PYTENSOR_CONVNET_AUTOTUNE=0`` takes fixed choices instead. Measure before you capture a CUDA graph: call
    the function once.
    """
    input, weight, bias = _autocast(input, weight, bias)
    if not is_for_kernels(input, FLOATS):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    images, moves = _correlation(input, weight, stride, padding, dilation, groups, precision)
    maps = operators.correlate2d(images, weight, *moves)
    maps = maps if input.ndim == 4 else maps[0]
    return maps if bias is None else maps + _along_channels(bias, weight)


def conv_max_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Lengths = 1,
    padding: Lengths | str = 0,
    dilation: Lengths = 1,
    groups: int = 1,
    *,
    pool_size: Lengths,
    pool_stride: Lengths | None = None,
    pool_padding: Lengths = 0,
    ceil_mode: bool = False,
    activation: str | None = None,
    precision: str | None = None,
) -> Tensor:
    """``activation(max_pool2d(conv2d(...)))``, with bias and activation taken of the maxima only.

    Since adding a bias and the activations here never change which of two numbers is greater, the result is the same as
    with both before the pool, but a pool of 2 x 2 leaves them a quarter of the work, forward and backward.

    Parameters
    ----------
    input, weight, bias, stride, padding, dilation, groups, precision
        As for `conv2d`.
    pool_size, pool_stride, pool_padding, ceil_mode
        As ``kernel_size``, ``stride``, ``padding`` and ``ceil_mode`` for `max_pool2d`.
    activation : {'relu', 'sigmoid', 'tanh'}, optional

    Returns
    -------
    tensor, (batch, filters, rows, columns) or (filters, rows, columns)

    Raises
    ------
    ValueError
        As for `conv2d` and `max_pool2d`; or ``activation`` is none of those above.

    Notes
    -----
    On a GPU this is one operator. Where that is faster, and ``precision`` is not 'ieee', maps never reach memory; then
    maxima have 18 bits or more of float32's 24, and maps that agree in these count as equal, of which the first wins.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, or None, got {activation!r}")
    input, weight, bias = _autocast(input, weight, bias)
    if not is_for_kernels(input, FLOATS):
        maps = F.conv2d(input, weight, None, stride, padding, dilation, groups)
        maxima = max_pool2d(maps, pool_size, pool_stride, pool_padding, ceil_mode=ceil_mode)
        if bias is not None:
            maxima = maxima + _along_channels(bias, weight).to(maxima.dtype)
        return maxima if activation is None else ACTIVATIONS[activation](maxima)
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    _along_channels(bias, weight)
    images, moves = _correlation(input, weight, stride, padding, dilation, groups, precision)
    windows = windows_of(pool_size, pool_stride, pool_padding)
    maxima, _ = conv_pool_operators.correlate2d_max_pool2d(
        images, weight, bias.to(images.dtype), *moves, *windows, ceil_mode, activation or "identity"
    )
    return maxima if input.ndim == 4 else maxima[0]


def _autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast wants of convolutions on a GPU, where it is on."""
    if input.device.type != "cuda" or not torch.is_autocast_enabled("cuda"):
        return input, weight, bias
    dtype = torch.get_autocast_dtype("cuda")
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _correlation(
    input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, precision: str | None
) -> tuple[Tensor, tuple[Any, ...]]:
    """A batch of images, and how the operators are told that filters move."""
    if input.ndim not in (3, 4):
        raise ValueError(
            f"input must be (batch, channels, rows, columns) or (channels, rows, columns), got {tuple(input.shape)}"
        )
    steps, gaps = as_pair(stride, "stride", least=1), as_pair(dilation, "dilation", least=1)
    sides = _sides(padding, weight, steps, gaps)
    if precision is None:
        precision = "medium" if torch.backends.cudnn.allow_tf32 else "ieee"
    groups = as_count(groups, "groups", least=1)
    return input if input.ndim == 4 else input[None], (list(steps), sides, list(gaps), groups, precision)


def _sides(padding: Any, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]) -> list[int]:
    """The padding as (top, bottom, left, right)."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"padding='same' needs a stride of 1, got {stride}")
        spans = [gap * (taps - 1) for gap, taps in zip(dilation, weight.shape[2:])]
        return [side for span in spans for side in (span // 2, span - span // 2)]
    if isinstance(padding, str):
        raise ValueError(f"padding must be 'valid', 'same', an integer or a pair (rows, columns), got {padding!r}")
    rows, columns = as_pair(padding, "padding", least=0)
    return [rows, rows, columns, columns]


def _along_channels(bias: Tensor, weight: Tensor) -> Tensor:
    """A bias that is added to each map as a whole."""
    if tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must have a number for each of the {weight.shape[0]} filters, got {tuple(bias.shape)}")
    return bias[:, None, None]
