"""Convolution in three dimensions by two-dimensional ones: plain, for the programs that need it.

Output depth joins the batch, and the filters' depth joins the channels: for each output depth ``z`` the ``taps``
slices of the input at ``z * stride + tap * dilation`` are so many channels of one image. One call of `conv2d` computes
all; the rearranged input is ``taps`` times as large.
"""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import pullback
from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet import geometry

Triple = tuple[Any, Any, Any]


def conv3d(
    input: Any,
    filters: Any,
    input_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Triple = (1, 1, 1),
    filter_flip: bool = True,
    filter_dilation: Triple = (1, 1, 1),
    num_groups: int = 1,
) -> Variable:
    """Convolve volumes with a bank of filters.

    Parameters
    ----------
    input : tensor of shape (batch, channels, depth, rows, columns)
        The volumes; float32 or float64.
    filters : tensor of shape (filters, channels // num_groups, depth, rows, columns)
    input_shape, filter_shape : sequence of int or None, optional
        What is known beforehand of the shapes.
    border_mode : {'valid', 'full', 'half'}, int or (int, int, int)
        Padding, as for `pytensor_convnet.conv2d`.
    subsample, filter_dilation : (int, int, int)
        Stride and dilation for depth, rows and columns.
    filter_flip : bool
        True for convolution, False for correlation.
    num_groups : int
        Groups of channels and filters that do not see each other.

    Returns
    -------
    tensor of shape (batch, filters, output depth, output rows, output columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.
    """
    volumes, bank = pt.as_tensor_variable(input), pt.as_tensor_variable(filters)
    for tensor, name, axes in ((volumes, "input", "batch, channels"), (bank, "filters", "filters, channels")):
        if tensor.ndim != 5:
            raise ValueError(f"{name} must have 5 axes ({axes}, depth, rows, columns), got {tensor.type}")
    if filter_shape is not None:
        bank = pt.specify_shape(bank, tuple(filter_shape))
    if input_shape is not None:
        volumes = pt.specify_shape(volumes, (None, *list(input_shape)[1:]))
    depth_mode, plane_mode = _border_modes(border_mode)
    if filter_flip:
        bank = bank[:, :, ::-1]
    taps, dilation = bank.shape[2], filter_dilation[0]
    volumes = _with_depth_padded(volumes, depth_mode, taps, dilation)
    count = geometry.correlation_length(volumes.shape[2], taps, subsample[0], 0, 0, dilation)
    slices = pt.arange(count)[:, None] * subsample[0] + pt.arange(taps)[None, :] * dilation
    windows = volumes[:, :, slices].dimshuffle(0, 2, 1, 3, 4, 5)  # batch, places, channels, taps, rows, columns
    batch, channels = volumes.shape[0], volumes.shape[1]
    maps = ours.conv2d(
        windows.reshape((batch * count, channels * taps, volumes.shape[3], volumes.shape[4])),
        bank.reshape((bank.shape[0], bank.shape[1] * taps, bank.shape[3], bank.shape[4])),
        border_mode=plane_mode,
        subsample=subsample[1:],
        filter_flip=filter_flip,
        filter_dilation=filter_dilation[1:],
        num_groups=num_groups,
    )
    volume = maps.reshape((batch, count, maps.shape[1], maps.shape[2], maps.shape[3]))
    return volume.dimshuffle(0, 2, 1, 3, 4)


def _border_modes(border_mode: Any) -> tuple[Any, Any]:
    """The padding of depth, and that of rows and columns."""
    if isinstance(border_mode, str | int):
        return border_mode, border_mode
    if len(border_mode) != 3:
        raise ValueError(f"border_mode must be a name, an int or three of them, got {border_mode!r}")
    return border_mode[0], border_mode[1] if border_mode[1] == border_mode[2] else tuple(border_mode[1:])


def _with_depth_padded(volumes: Variable, mode: Any, taps: Any, dilation: int) -> Variable:
    if mode in ("valid", 0):
        return volumes
    named = {"half": geometry.half_padding, "full": geometry.full_padding}
    if isinstance(mode, str) and mode not in named:
        raise ValueError(f"border_mode must be 'valid', 'full', 'half', an int or three of them, got {mode!r}")
    margin = named[mode](taps, dilation) if isinstance(mode, str) else mode
    batch, channels, depth, rows, columns = (volumes.shape[axis] for axis in range(5))
    zeros = pt.zeros((batch, channels, depth + 2 * margin, rows, columns), dtype=volumes.dtype)
    return pt.set_subtensor(zeros[:, :, margin : margin + depth], volumes)


def conv3d_grad_wrt_inputs(
    output_grad: Any,
    filters: Any,
    input_shape: Sequence[Any],
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Triple = (1, 1, 1),
    filter_flip: bool = True,
    filter_dilation: Triple = (1, 1, 1),
    num_groups: int = 1,
) -> Variable:
    """The gradient of `conv3d` for its input, of shape ``input_shape``; other arguments as for `conv3d`."""
    output_grad, filters = pt.as_tensor_variable(output_grad), pt.as_tensor_variable(filters)
    # The convolution is linear in its input, so that any input gives the gradient.
    origin = pt.zeros(tuple(input_shape), dtype=output_grad.dtype)
    settings = filter_shape, border_mode, subsample, filter_flip, filter_dilation, num_groups
    return _one(pullback(conv3d(origin, filters, None, *settings), origin, output_grad))


def conv3d_grad_wrt_weights(
    input: Any,
    output_grad: Any,
    filter_shape: Sequence[Any],
    input_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Triple = (1, 1, 1),
    filter_flip: bool = True,
    filter_dilation: Triple = (1, 1, 1),
    num_groups: int = 1,
) -> Variable:
    """The gradient of `conv3d` for its filters, of shape ``filter_shape``; other arguments as for `conv3d`."""
    output_grad, input = pt.as_tensor_variable(output_grad), pt.as_tensor_variable(input)
    origin = pt.zeros(tuple(filter_shape), dtype=output_grad.dtype)
    settings = border_mode, subsample, filter_flip, filter_dilation, num_groups
    return _one(pullback(conv3d(input, origin, input_shape, None, *settings), origin, output_grad))


def _one(gradients: Any) -> Variable:
    return gradients[0] if isinstance(gradients, list | tuple) else gradients
