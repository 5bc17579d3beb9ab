"""Convolutions, under the names and with the arguments of ``theano.tensor.nnet``.

Images are bc01: (batch, channels, rows, columns). Each function checks its arguments, resolves the border mode
and builds one Op; shapes are checked as soon as they are known, at the latest when the function runs.
"""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable

from pytensor_convnet.geometry import BorderMode, as_count
from pytensor_convnet.ops.base import as_common_floats, as_images
from pytensor_convnet.ops.correlation import Correlate2d, Correlation
from pytensor_convnet.ops.locally_connected import LocallyConnected2d

StaticShape = Sequence[Any] | None
"""Lengths that are known beforehand: ints (or constants), ``None`` where a length is free."""


def conv2d(
    input: Any,
    filters: Any,
    input_shape: StaticShape = None,
    filter_shape: StaticShape = None,
    border_mode: BorderMode = "valid",
    subsample: int | Sequence[int] = (1, 1),
    filter_flip: bool = True,
    image_shape: StaticShape = None,
    filter_dilation: int | Sequence[int] = (1, 1),
    num_groups: int = 1,
    unshared: bool = False,
) -> Variable:
    """Convolve images with a bank of filters.

    Parameters
    ----------
    input : tensor of shape (batch, channels, rows, columns)
        The images; float32 or float64 (integers are cast to the filters' dtype).
    filters : tensor of shape (filters, channels // num_groups, rows, columns)
        The bank of filters. With ``unshared`` of shape
        (filters, output rows, output columns, channels // num_groups, rows, columns).
    input_shape, filter_shape : sequence of int or None, optional
        What is known beforehand of the shapes. Known lengths make output shapes static, and are checked.
    border_mode : {'valid', 'full', 'half'}, int, (int, int) or ((int, int), (int, int))
        How the images are padded with zeros: not at all ('valid'); so that every overlap of filter and image
        counts ('full'); by half the filter's length, which keeps the size for odd filters ('half'); by a number of
        pixels, the same everywhere, for (rows, columns), or for ((top, bottom), (left, right)).
    subsample : int or (int, int)
        The stride: how far the filters move from one output pixel to the next.
    filter_flip : bool
        True for convolution (the filters are turned by half a turn), False for correlation.
    image_shape : sequence of int or None, optional
        The old name of ``input_shape``.
    filter_dilation : int or (int, int)
        The distance between neighbouring taps of a filter.
    num_groups : int
        Splits channels and filters into groups that do not see each other.
    unshared : bool
        Whether every output pixel has filters of its own (a locally connected layer).

    Returns
    -------
    tensor of shape (batch, filters, output rows, output columns)
        Each output length is ``(length + padding - ((taps - 1) * dilation + 1)) // stride + 1``.

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other: at once where static shapes show it, else when the
        compiled function runs.

    Notes
    -----
    The signature is that of ``theano.tensor.nnet.conv2d``. The output is Dumoulin and Visin's, "A guide to
    convolution arithmetic for deep learning" (2016), relationship 6 and, with dilation, 15.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet import conv2d
    >>> image = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> difference = np.array([[[[1.0, -1.0]]]])  # each pixel less its left neighbour
    >>> conv2d(pt.as_tensor(image), difference).eval().tolist()
    [[[[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]]]

    A strided layer with a border, on images of unknown number:

    >>> images = pt.tensor("images", shape=(None, 3, 32, 32), dtype="float32")
    >>> filters = pt.tensor("filters", shape=(64, 3, 5, 5), dtype="float32")
    >>> conv2d(images, filters, border_mode="half", subsample=(2, 2)).type.shape
    (None, 64, 16, 16)
    """
    if image_shape is not None:
        if input_shape is not None:
            raise ValueError("input_shape and image_shape are two names of one argument: give one of them")
        input_shape = image_shape
    input, filters = as_common_floats(input=(input, 4), filters=(filters, 6 if unshared else 4))
    input = _specify_shape(input, input_shape, "input_shape")
    filters = _specify_shape(filters, filter_shape, "filter_shape")
    op = _correlation(border_mode, subsample, filter_flip, filter_dilation, num_groups, unshared)
    return op.forward(input, filters)


def conv2d_grad_wrt_inputs(
    output_grad: Any,
    filters: Any,
    input_shape: Sequence[Any],
    filter_shape: StaticShape = None,
    border_mode: BorderMode = "valid",
    subsample: int | Sequence[int] = (1, 1),
    filter_flip: bool = True,
    filter_dilation: int | Sequence[int] = (1, 1),
    num_groups: int = 1,
    unshared: bool = False,
) -> Variable:
    """The gradient of `conv2d` for its input.

    Parameters
    ----------
    output_grad : tensor of shape (batch, filters, output rows, output columns)
        The gradient for the output of `conv2d`.
    filters : tensor
        As for `conv2d`.
    input_shape : sequence of 4
        The shape of the images. Rows and columns are needed, as ints or symbolic scalars: with a stride, images of
        several sizes give the same output. Batch and channels may be None.
    filter_shape, border_mode, subsample, filter_flip, filter_dilation, num_groups, unshared
        As for `conv2d`.

    Returns
    -------
    tensor of shape (batch, channels, rows, columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet import conv2d_grad_wrt_inputs
    >>> output_grad = pt.as_tensor(np.ones((1, 1, 2, 2)))
    >>> conv2d_grad_wrt_inputs(output_grad, np.ones((1, 1, 2, 2)), (None, None, 3, 3)).eval().tolist()
    [[[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]]
    """
    output_grad, filters = as_common_floats(output_grad=(output_grad, 4), filters=(filters, 6 if unshared else 4))
    filters = _specify_shape(filters, filter_shape, "filter_shape")
    batch, channels, rows, columns = _lengths(input_shape, 4, "input_shape", needed=2)
    op = _correlation(border_mode, subsample, filter_flip, filter_dilation, num_groups, unshared)
    gradient = op.partner("input_grad")(filters, output_grad, rows, columns)
    return _specify_shape(gradient, (batch, channels, None, None), "input_shape")


def conv2d_grad_wrt_weights(
    input: Any,
    output_grad: Any,
    filter_shape: Sequence[Any],
    input_shape: StaticShape = None,
    border_mode: BorderMode = "valid",
    subsample: int | Sequence[int] = (1, 1),
    filter_flip: bool = True,
    filter_dilation: int | Sequence[int] = (1, 1),
    num_groups: int = 1,
    unshared: bool = False,
) -> Variable:
    """The gradient of `conv2d` for its filters.

    Parameters
    ----------
    input : tensor of shape (batch, channels, rows, columns)
        The images.
    output_grad : tensor of shape (batch, filters, output rows, output columns)
        The gradient for the output of `conv2d`.
    filter_shape : sequence of 4 (of 6 with ``unshared``)
        The shape of the filters. Rows and columns are needed, as ints or symbolic scalars; the others may be None.
    input_shape, border_mode, subsample, filter_flip, filter_dilation, num_groups, unshared
        As for `conv2d`.

    Returns
    -------
    tensor of the filters' shape

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet import conv2d_grad_wrt_weights
    >>> image = pt.as_tensor(np.arange(9.0).reshape(1, 1, 3, 3))
    >>> gradient = conv2d_grad_wrt_weights(image, np.ones((1, 1, 2, 2)), (1, 1, 2, 2), filter_flip=False)
    >>> gradient.eval().tolist()
    [[[[8.0, 12.0], [20.0, 24.0]]]]
    """
    input, output_grad = as_common_floats(input=(input, 4), output_grad=(output_grad, 4))
    input = _specify_shape(input, input_shape, "input_shape")
    *others, rows, columns = _lengths(filter_shape, 6 if unshared else 4, "filter_shape", needed=2)
    op = _correlation(border_mode, subsample, filter_flip, filter_dilation, num_groups, unshared)
    gradient = op.partner("filter_grad")(input, output_grad, rows, columns)
    return _specify_shape(gradient, (*others, None, None), "filter_shape")


def conv2d_transpose(
    input: Any,
    filters: Any,
    output_shape: Sequence[Any],
    filter_shape: StaticShape = None,
    border_mode: BorderMode = "valid",
    input_dilation: int | Sequence[int] = (1, 1),
    filter_flip: bool = True,
    filter_dilation: int | Sequence[int] = (1, 1),
    num_groups: int = 1,
    unshared: bool = False,
) -> Variable:
    """Transposed convolution: the linear map whose transpose is `conv2d`, used to raise resolution.

    Parameters
    ----------
    input : tensor of shape (batch, input channels, rows, columns)
        The images.
    filters : tensor of shape (input channels, output channels // num_groups, rows, columns)
        The bank of filters; note the order of the first two axes.
    output_shape : sequence of 4
        The shape of the output. Rows and columns are needed, as ints or symbolic scalars; batch and channels may be
        None.
    filter_shape, border_mode, filter_flip, filter_dilation, num_groups, unshared
        As for `conv2d`.
    input_dilation : int or (int, int)
        By how much the resolution is raised: the ``subsample`` of the convolution transposed.

    Returns
    -------
    tensor of shape (batch, output channels, output rows, output columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet import conv2d_transpose
    >>> small = pt.as_tensor(np.array([[[[1.0, 2.0]]]]))
    >>> conv2d_transpose(small, np.ones((1, 1, 2, 2)), (None, None, 2, 4), input_dilation=2).eval().tolist()
    [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
    """
    return conv2d_grad_wrt_inputs(
        input,
        filters,
        output_shape,
        filter_shape,
        border_mode,
        input_dilation,
        filter_flip,
        filter_dilation,
        num_groups,
        unshared,
    )


def separable_conv2d(
    input: Any,
    depthwise_filters: Any,
    pointwise_filters: Any,
    num_channels: int,
    input_shape: StaticShape = None,
    depthwise_filter_shape: StaticShape = None,
    pointwise_filter_shape: StaticShape = None,
    border_mode: BorderMode = "valid",
    subsample: int | Sequence[int] = (1, 1),
    filter_flip: bool = True,
    filter_dilation: int | Sequence[int] = (1, 1),
) -> Variable:
    """Depthwise separable convolution: every channel on its own, then a mix of channels pixel by pixel.

    Parameters
    ----------
    input : tensor of shape (batch, channels, rows, columns)
        The images.
    depthwise_filters : tensor of shape (channels * multiplier, 1, rows, columns)
        ``multiplier`` filters for each channel.
    pointwise_filters : tensor of shape (filters, channels * multiplier, 1, 1)
        The mix.
    num_channels : int
        The number of input channels.
    input_shape, depthwise_filter_shape, pointwise_filter_shape : sequence of int or None, optional
        What is known beforehand of the shapes.
    border_mode, subsample, filter_flip, filter_dilation
        As for `conv2d`; they apply to the depthwise convolution.

    Returns
    -------
    tensor of shape (batch, filters, output rows, output columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet import separable_conv2d
    >>> images = pt.as_tensor(np.ones((1, 2, 3, 3)))
    >>> separable_conv2d(images, np.ones((2, 1, 3, 3)), np.ones((1, 2, 1, 1)), 2).eval().tolist()
    [[[[18.0]]]]
    """
    pointwise_filters = as_images(pointwise_filters, "pointwise_filters")
    pointwise_filters = _specify_shape(pointwise_filters, pointwise_filter_shape, "pointwise_filter_shape")
    if any(taps not in (None, 1) for taps in pointwise_filters.type.shape[2:]):
        raise ValueError(f"pointwise_filters must have one tap on each axis, got shape {pointwise_filters.type.shape}")
    depthwise = conv2d(
        input,
        depthwise_filters,
        input_shape,
        depthwise_filter_shape,
        border_mode,
        subsample,
        filter_flip,
        filter_dilation=filter_dilation,
        num_groups=num_channels,
    )
    return conv2d(depthwise, pointwise_filters)


def _correlation(border_mode, subsample, filter_flip, filter_dilation, num_groups, unshared) -> Correlation:
    """The forward Op of the family that these arguments describe."""
    op_type = LocallyConnected2d if unshared else Correlate2d
    return op_type(subsample, border_mode, filter_dilation, num_groups, filter_flip)


def _lengths(shape: Any, ndim: int, name: str, *, needed: int = 0) -> list[Any]:
    """The entries of a shape argument: ints, None, or symbolic scalars; the last ``needed`` must not be None."""
    try:
        lengths = [x.data.item() if isinstance(x, Constant) else x for x in shape]
    except TypeError as error:
        raise ValueError(f"{name} must be a sequence of {ndim} lengths, got {shape!r}") from error
    if len(lengths) != ndim:
        raise ValueError(f"{name} must have {ndim} entries, got {len(lengths)}: {shape!r}")
    if None in lengths[ndim - needed :]:
        raise ValueError(f"{name} must give rows and columns (its last two entries), got {shape!r}")
    for length in lengths:
        if not isinstance(length, Variable) and length is not None:
            as_count(length, name, least=0)
    return lengths


def _specify_shape(tensor: Variable, shape: StaticShape, name: str) -> Variable:
    """``tensor`` with what ``shape`` knows of its type, checked when the function runs."""
    if shape is None:
        return tensor
    lengths = _lengths(shape, tensor.type.ndim, name)
    known = [x if isinstance(x, Variable) or x is None else int(x) for x in lengths]
    for static, length in zip(tensor.type.shape, known):
        if static is not None and isinstance(length, int) and static != length:
            raise ValueError(f"{name} is {tuple(known)} but the tensor's static shape is {tensor.type.shape}")
    return pt.specify_shape(tensor, known)
