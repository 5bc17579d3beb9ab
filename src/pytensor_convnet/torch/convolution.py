"""`conv2d` as `torch.nn.functional` has it, and `conv_max_pool2d`, the layer that convolutional networks repeat."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pytensor_convnet.geometry import Pair, as_count
from pytensor_convnet.torch.checks import (
    PRECISIONS,
    check_bias,
    check_choice,
    check_correlation,
    check_flag,
    check_operands,
    check_tensors,
    check_windows,
    pair_of,
)
from pytensor_convnet.torch.placing import HAS_TRITON, is_for_kernels
from pytensor_convnet.torch.pooling import Lengths, max_pool2d, windows_of

if HAS_TRITON:
    from pytensor_convnet.torch import conv_pool_operators
    from pytensor_convnet.torch import convolution_operators as operators

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

POOL_NAMES = ("pool_size", "pool_stride", "pool_padding")

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
        Of the dtype of ``weight`` and ``input``.
    stride, dilation : int or pair of int
    padding : int, pair of int, 'valid' or 'same'
    groups : int
    precision : {'medium', 'high', 'ieee'}, optional
        How float32 is multiplied, on a GPU: with relative errors of at most 1e-3 (as tf32 has them), 2e-5, or 1e-6. By
        default 'medium' where torch allows tf32 in convolutions (``torch.backends.cudnn.allow_tf32``, or since 2.9
        ``torch.backends.cudnn.conv.fp32_precision`` and what that inherits), or else 'ieee'.

    Returns
    -------
    tensor, (batch, filters, rows, columns) or (filters, rows, columns)

    Raises
    ------
    ValueError
        ``input``, ``weight`` or ``bias`` is no tensor, or ``precision`` none of those above. On a GPU, also where
        shapes, dtypes or settings do not fit; the message has the shapes that met and the rule.

    Notes
    -----
    The first call with a shape on a GPU measures which kernel is fastest for it, cuDNN's among them, and remembers it
    on disk; ``PYTENSOR_CONVNET_AUTOTUNE=0`` takes fixed choices instead. Measure before you capture a CUDA graph: call
    the function once.
    """
    check_tensors(input=input, weight=weight, bias=bias)
    check_choice(precision, PRECISIONS, "precision")
    input, weight, bias = _autocast(input, weight, bias)
    if not is_for_kernels(input, FLOATS):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    check_operands(input, weight, bias)
    images, moves = _correlation(input, weight, stride, padding, dilation, groups, precision)
    maps = operators.correlate2d(images, weight, *moves)
    maps = maps if input.ndim == 4 else maps[0]
    return maps if bias is None else maps + bias[:, None, None]


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
        As for `conv2d` and `max_pool2d`. On any device, ``activation`` is none of those above, windows cannot slide
        over the maps, or ``bias`` does not hold a number for each filter in the dtype of ``weight``.

    Notes
    -----
    On a GPU this is one operator. Where that is faster, and ``precision`` is not 'ieee', maps never reach memory; then
    maxima have 18 bits or more of float32's 24, and maps that agree in these count as equal, of which the first wins.
    """
    check_tensors(input=input, weight=weight, bias=bias)
    check_choice(precision, PRECISIONS, "precision")
    check_choice(activation, tuple(ACTIVATIONS), "activation")
    check_flag(ceil_mode, "ceil_mode")
    windows = window, step, margin = windows_of(pool_size, pool_stride, pool_padding, POOL_NAMES)
    input, weight, bias = _autocast(input, weight, bias)
    if not is_for_kernels(input, FLOATS):
        maps = F.conv2d(input, weight, None, stride, padding, dilation, groups)
        check_windows("maps", maps.shape, window, margin, ceil_mode, POOL_NAMES)
        maxima = max_pool2d(maps, window, step, margin, ceil_mode=ceil_mode)
        if bias is not None:
            check_bias(bias, weight)
            maxima = maxima + bias[:, None, None].to(maxima.dtype)
        return maxima if activation is None else ACTIVATIONS[activation](maxima)
    check_operands(input, weight, bias)
    images, moves = _correlation(input, weight, stride, padding, dilation, groups, precision)
    maps_shape = weight.shape[0], *operators.map_lengths(images, weight, *moves[:3])
    check_windows("maps", maps_shape, window, margin, ceil_mode, POOL_NAMES)
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    maxima, _ = conv_pool_operators.correlate2d_max_pool2d(
        images, weight, bias, *moves, *windows, ceil_mode, activation or "identity"
    )
    return maxima if input.ndim == 4 else maxima[0]


def _autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands in the dtype that autocast wants of convolutions on their device, where it is on."""
    device = input.device.type
    if device not in ("cuda", "cpu") or not torch.is_autocast_enabled(device):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor) -> Tensor:
        """Autocast leaves float64, integers and tensors on other devices as they are."""
        eligible = tensor.is_floating_point() and tensor.dtype != torch.float64 and tensor.device.type == device
        return tensor.to(dtype) if eligible else tensor

    return cast(input), cast(weight), None if bias is None else cast(bias)


def _correlation(
    input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, precision: str | None
) -> tuple[Tensor, tuple[Any, ...]]:
    """A batch of images, and how the operators are told that filters move."""
    steps, gaps = pair_of(stride, "stride", 1), pair_of(dilation, "dilation", 1)
    sides = _sides(padding, weight, steps, gaps)
    groups = as_count(groups, "groups", least=1)
    check_correlation(input, weight, steps, sides, gaps, groups)
    moves = list(steps), sides, list(gaps), groups, precision or operators.DEFAULT_PRECISION
    return input if input.ndim == 4 else input[None], moves


def _sides(padding: Any, weight: Tensor, stride: Pair, dilation: Pair) -> list[int]:
    """The padding as (top, bottom, left, right)."""
    if isinstance(padding, str):
        if padding == "valid":
            return [0, 0, 0, 0]
        if padding != "same":
            raise ValueError(f"padding must be 'valid', 'same', an integer or a pair (rows, columns), got {padding!r}")
        if stride != (1, 1):
            raise ValueError(f"padding='same' needs a stride of 1, got {stride}")
        spans = [gap * (taps - 1) for gap, taps in zip(dilation, weight.shape[2:])]
        return [side for span in spans for side in (span // 2, span - span // 2)]
    rows, columns = pair_of(padding, "padding", 0)
    return [rows, rows, columns, columns]
