"""``theano.tensor.nnet.abstract_conv``: convolutions in two and three dimensions, and bilinear upsampling."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet import geometry
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet.three_dimensions import (
    conv3d,
    conv3d_grad_wrt_inputs,
    conv3d_grad_wrt_weights,
)

__all__ = ["conv3d", "conv3d_grad_wrt_inputs", "conv3d_grad_wrt_weights"]

conv2d_grad_wrt_inputs = ours.conv2d_grad_wrt_inputs
conv2d_grad_wrt_weights = ours.conv2d_grad_wrt_weights
conv2d_transpose = ours.conv2d_transpose
separable_conv2d = ours.separable_conv2d


def conv2d(
    input: Any,
    filters: Any,
    input_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    filter_flip: bool = True,
    filter_dilation: Any = (1, 1),
    num_groups: int = 1,
    unshared: bool = False,
) -> Variable:
    """`pytensor_convnet.conv2d` with the arguments in Theano's order.

    Parameters
    ----------
    input, filters, input_shape, filter_shape, border_mode, subsample, filter_flip
    filter_dilation, num_groups, unshared
        As for `pytensor_convnet.conv2d`. The batch in ``input_shape`` is a hint: other batches are taken too.

    Returns
    -------
    tensor of shape (batch, filters, output rows, output columns)
    """
    return ours.conv2d(
        input,
        filters,
        without_batch(input_shape),
        filter_shape,
        border_mode,
        subsample,
        filter_flip,
        filter_dilation=filter_dilation,
        num_groups=num_groups,
        unshared=unshared,
    )


def without_batch(input_shape: Sequence[Any] | None) -> Sequence[Any] | None:
    """A shape of which the batch is not known.

    Theano took the batch for a hint: programs give the size of their minibatches, and pass others when they predict.
    """
    return None if input_shape is None else (None, *list(input_shape)[1:])


def causal_conv1d(
    input: Any,
    filters: Any,
    filter_shape: Sequence[Any],
    input_shape: Sequence[Any] | None = None,
    subsample: int = 1,
    filter_flip: bool = True,
    filter_dilation: int = 1,
    num_groups: int = 1,
    unshared: bool = False,
) -> Variable:
    """Convolve sequences so that an output depends on no later input.

    Parameters
    ----------
    input : tensor of shape (batch, channels, length)
    filters : tensor of shape (filters, channels // num_groups, taps)
    filter_shape : sequence of 3
        The shape of the filters; the taps are needed.
    input_shape, subsample, filter_flip, filter_dilation, num_groups
        As for `pytensor_convnet.conv2d`, for one axis.
    unshared : bool
        Must be False.

    Returns
    -------
    tensor of shape (batch, filters, (length - 1) // subsample + 1)
    """
    if unshared:
        raise ValueError("causal_conv1d has no unshared filters: use conv2d(..., unshared=True)")
    before = (filter_shape[2] - 1) * filter_dilation
    maps = ours.conv2d(
        pt.as_tensor_variable(input)[:, :, :, None],
        pt.as_tensor_variable(filters)[:, :, :, None],
        None if input_shape is None else (None, *input_shape[1:], 1),
        (*filter_shape, 1),
        ((before, 0), (0, 0)),
        (subsample, 1),
        filter_flip,
        filter_dilation=(filter_dilation, 1),
        num_groups=num_groups,
    )
    return maps[:, :, :, 0]


# --------------------------------------------------------------------------------------------- upsampling


def bilinear_upsampling(
    input: Any,
    ratio: int | None = None,
    frac_ratio: Any = None,
    batch_size: int | None = None,
    num_input_channels: int | None = None,
    use_1D_kernel: bool = True,
) -> Variable:
    """Raise the resolution of images by bilinear interpolation.

    Parameters
    ----------
    input : tensor of shape (batch, channels, rows, columns)
    ratio : int, optional
        By how much. Either this or ``frac_ratio`` is needed.
    frac_ratio : (int, int) or ((int, int), (int, int)), optional
        By how much, as (numerator, denominator): for both axes, or for rows and for columns.
    batch_size, num_input_channels, use_1D_kernel
        Chose between ways of computing it in Theano; have no effect.

    Returns
    -------
    tensor of shape (batch, channels, ceil(rows * ratio), ceil(columns * ratio))

    Raises
    ------
    ValueError
        If not exactly one of ``ratio`` and ``frac_ratio`` is given.

    Notes
    -----
    Output pixel ``i`` lies at ``(i * denominator - (numerator - 1) // 2) / numerator`` of the input; beyond the first
    and the last pixel the image stays constant. These are the places of Theano's transposed convolution. As the
    interpolation is linear and separable, it is a product with one matrix on each side.

    Examples
    --------
    >>> import numpy as np
    >>> bilinear_upsampling(np.array([[[[0.0, 3.0]]]]), ratio=2).eval()[0, 0, 0].tolist()
    [0.0, 1.5, 3.0, 3.0]
    """
    if (ratio is None) == (frac_ratio is None):
        raise ValueError(f"give either ratio or frac_ratio, got {ratio!r} and {frac_ratio!r}")
    if ratio is not None:
        frac_ratio = (ratio, 1)
    ratios = frac_ratio if isinstance(frac_ratio[0], tuple | list) else (frac_ratio, frac_ratio)
    images = pt.as_tensor_variable(input)
    down = _interpolation(images.shape[2], ratios[0], images.dtype)
    across = _interpolation(images.shape[3], ratios[1], images.dtype)
    return pt.matmul(pt.matmul(down, images), across.T)


def frac_bilinear_upsampling(input: Any, frac_ratio: Any) -> Variable:
    """`bilinear_upsampling` by a fraction."""
    return bilinear_upsampling(input, frac_ratio=frac_ratio)


def _interpolation(length: Any, ratio: Sequence[int], dtype: str) -> Variable:
    """How much of each pixel (column) an output pixel (row) takes: a tent one pixel wide to both sides."""
    numerator, denominator = ratio
    outputs = pt.arange((length * numerator + denominator - 1) // denominator)
    places = (outputs * denominator - (numerator - 1) // 2) / numerator
    places = pt.clip(places, 0, length - 1)
    return pt.maximum(0, 1 - abs(places[:, None] - pt.arange(length)[None, :])).astype(dtype)


def bilinear_kernel_1D(ratio: int, normalize: bool = True) -> Variable:
    """The tent by which `bilinear_upsampling` interpolates, ``2 * ratio - 1`` taps; its peak is 1 if normalized."""
    tent = ratio - abs(pt.arange(1 - ratio, ratio))
    return (tent / ratio if normalize else tent).astype("floatX")


def bilinear_kernel_2D(ratio: Any, normalize: bool = True) -> Variable:
    """The product of a `bilinear_kernel_1D` over rows and one over columns; ``ratio`` is an int or a pair."""
    rows, columns = ratio if isinstance(ratio, tuple) else (ratio, ratio)
    return bilinear_kernel_1D(rows, normalize)[:, None] * bilinear_kernel_1D(columns, normalize)[None, :]


# --------------------------------------------------------------------------------------------- shapes


def border_mode_to_pad(mode: Any, convdim: int, kshp: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """A border mode as padding (before, after) of each of ``convdim`` axes, for filters of ``kshp``."""
    if isinstance(mode, str):
        pads = {"valid": lambda taps: 0, "half": lambda taps: taps // 2, "full": lambda taps: taps - 1}
        if mode not in pads:
            raise ValueError(f"border_mode must be 'valid', 'half', 'full', an int or pairs, got {mode!r}")
        return tuple((pads[mode](taps),) * 2 for taps in kshp[-convdim:])
    sides = (mode,) * convdim if isinstance(mode, int) else tuple(mode)
    return tuple((side, side) if isinstance(side, int) else tuple(side) for side in sides)


def get_conv_output_shape(
    image_shape: Sequence[int | None],
    kernel_shape: Sequence[int | None],
    border_mode: Any,
    subsample: Sequence[int],
    filter_dilation: Sequence[int] | None = None,
) -> tuple[int | None, ...]:
    """The shape of a convolution's output; None where it is not known.

    Parameters
    ----------
    image_shape, kernel_shape : sequences of int or None
        (batch, channels, *lengths) and (filters, channels, *lengths).
    border_mode, subsample, filter_dilation
        As for `pytensor_convnet.conv2d`, for as many axes as there are lengths.

    Returns
    -------
    tuple of int or None
    """
    axes = len(image_shape) - 2
    dilation = (1,) * axes if filter_dilation is None else filter_dilation
    lengths = []
    for axis in range(axes):
        one_axis = border_mode if isinstance(border_mode, str | int) else border_mode[axis]
        arguments = image_shape[axis + 2], kernel_shape[axis - axes], one_axis, subsample[axis], dilation[axis]
        lengths.append(get_conv_shape_1axis(*arguments))
    return (image_shape[0], kernel_shape[0], *lengths)


def get_conv_shape_1axis(image_shape: Any, kernel_shape: Any, border_mode: Any, subsample: Any, dilation: int = 1):
    """One length of `get_conv_output_shape`."""
    if None in (image_shape, kernel_shape, border_mode, subsample, dilation):
        return None
    span = geometry.dilated_length(kernel_shape, dilation)
    [(before, after)] = border_mode_to_pad(border_mode if isinstance(border_mode, str) else (border_mode,), 1, (span,))
    return geometry.correlation_length(image_shape, kernel_shape, subsample, before, after, dilation)


# --------------------------------------------------------------------------------------------- as Ops


class AbstractConv2d:
    """A convolution as an object, by the Op's name in Theano; calling it with images and filters convolves them."""

    def __init__(
        self,
        imshp: Sequence[Any] | None = None,
        kshp: Sequence[Any] | None = None,
        border_mode: Any = "valid",
        subsample: Any = (1, 1),
        filter_flip: bool = True,
        filter_dilation: Any = (1, 1),
        num_groups: int = 1,
        unshared: bool = False,
    ):
        self.imshp, self.kshp = imshp, kshp
        self.border_mode, self.subsample, self.filter_flip = border_mode, subsample, filter_flip
        self.filter_dilation, self.num_groups, self.unshared = filter_dilation, num_groups, unshared

    def _settings(self) -> tuple[Any, ...]:
        return (
            self.border_mode,
            self.subsample,
            self.filter_flip,
            self.filter_dilation,
            self.num_groups,
            self.unshared,
        )

    def __call__(self, img: Any, kern: Any) -> Variable:
        return conv2d(img, kern, self.imshp, self.kshp, *self._settings())


class AbstractConv2d_gradInputs(AbstractConv2d):
    """The gradient for the images: of filters, the output's gradient and the images' (rows, columns)."""

    def __call__(self, kern: Any, topgrad: Any, shape: Any) -> Variable:  # type: ignore[override]
        return conv2d_grad_wrt_inputs(topgrad, kern, (None, None, shape[0], shape[1]), self.kshp, *self._settings())


class AbstractConv2d_gradWeights(AbstractConv2d):
    """The gradient for the filters: of images, the output's gradient and the filters' (rows, columns)."""

    def __call__(self, img: Any, topgrad: Any, shape: Any) -> Variable:  # type: ignore[override]
        settings = self._settings()
        return conv2d_grad_wrt_weights(img, topgrad, (None, None, shape[0], shape[1]), None, *settings)


__getattr__, __dir__ = mirror(__name__)
