"""``theano.sandbox.cuda.dnn``: what cuDNN computed, by our operators."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor import special

import pytensor_convnet as ours
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet import bn
from pytensor_convnet.compat.theano.tensor.nnet.three_dimensions import conv3d
from pytensor_convnet.compat.theano.tensor.signal import pool


def dnn_available(*context: Any) -> bool:
    """True: these functions can be used."""
    return True


def version(raises: bool = True) -> int:
    """The version of cuDNN that last had all that is mirrored."""
    return 5110


def _flip(conv_mode: str) -> bool:
    if conv_mode not in ("conv", "cross"):
        raise ValueError(f"conv_mode must be 'conv' (filters are flipped) or 'cross', got {conv_mode!r}")
    return conv_mode == "conv"


def dnn_conv(
    img: Any,
    kerns: Any,
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    dilation: Any = (1, 1),
    conv_mode: str = "conv",
    direction_hint: str | None = None,
    workmem: str | None = None,
    algo: str | None = None,
    precision: str | None = None,
    num_groups: int = 1,
) -> Variable:
    """Convolve images with a bank of filters.

    Parameters
    ----------
    img : tensor of shape (batch, channels, rows, columns)
    kerns : tensor of shape (filters, channels // num_groups, rows, columns)
    border_mode, subsample, dilation, num_groups
        As for `pytensor_convnet.conv2d`. (Theano before 0.9 had no ``dilation``: a string in its place is taken for
        ``conv_mode``.)
    conv_mode : {'conv', 'cross'}
        Whether filters are flipped ('conv') or not.
    direction_hint, workmem, algo, precision
        Chose among cuDNN's algorithms; have no effect.

    Returns
    -------
    tensor of shape (batch, filters, output rows, output columns)
    """
    if isinstance(dilation, str):
        dilation, conv_mode = (1, 1), dilation
    flip = _flip(conv_mode)
    return ours.conv2d(
        img, kerns, None, None, border_mode, subsample, flip, filter_dilation=dilation, num_groups=num_groups
    )


def dnn_conv3d(
    img: Any,
    kerns: Any,
    border_mode: Any = "valid",
    subsample: Any = (1, 1, 1),
    dilation: Any = (1, 1, 1),
    conv_mode: str = "conv",
    **hints: Any,
) -> Variable:
    """`dnn_conv` of volumes (batch, channels, depth, rows, columns)."""
    if isinstance(dilation, str):
        dilation, conv_mode = (1, 1, 1), dilation
    return conv3d(img, kerns, None, None, border_mode, subsample, _flip(conv_mode), dilation)


def dnn_gradinput(
    kerns: Any,
    topgrad: Any,
    img_shp: Sequence[Any],
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    conv_mode: str = "conv",
    **hints: Any,
) -> Variable:
    """The gradient of `dnn_conv` for images of shape ``img_shp``, from that of its output, ``topgrad``."""
    shape = (None, None, img_shp[2], img_shp[3])
    return ours.conv2d_grad_wrt_inputs(topgrad, kerns, shape, None, border_mode, subsample, _flip(conv_mode))


def dnn_gradweight(
    img: Any,
    topgrad: Any,
    kerns_shp: Sequence[Any],
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    conv_mode: str = "conv",
    **hints: Any,
) -> Variable:
    """The gradient of `dnn_conv` for filters of shape ``kerns_shp``, from that of its output, ``topgrad``."""
    shape = (None, None, kerns_shp[2], kerns_shp[3])
    return ours.conv2d_grad_wrt_weights(img, topgrad, shape, None, border_mode, subsample, _flip(conv_mode))


def dnn_pool(img: Any, ws: Any, stride: Any = None, mode: str = "max", pad: Any = None) -> Variable:
    """Pool windows of images; partial windows are ignored.

    Parameters
    ----------
    img : tensor of shape (batch, channels, rows, columns) or (batch, channels, depth, rows, columns)
    ws : sequence of 2 or 3 ints
        The window.
    stride : sequence of ints, optional
        By default 1 everywhere.
    mode : {'max', 'sum', 'average', 'average_inc_pad', 'average_exc_pad'}
        'average' is 'average_inc_pad'.
    pad : sequence of ints, optional
        The border; by default none.

    Returns
    -------
    tensor of as many axes
    """
    axes = len(ws)
    stride = (1,) * axes if stride is None else stride
    pad = (0,) * axes if pad is None else pad
    pooling = {2: pool.pool_2d, 3: pool.pool_3d}[axes]
    return pooling(img, ws, True, stride, pad, "average_inc_pad" if mode == "average" else mode)


# --------------------------------------------------------------------------------------------- as Ops


class GpuDnnConvDesc:
    """What a convolution is like, apart from its operands; calling it with their shapes gives itself.

    Parameters
    ----------
    border_mode, subsample, conv_mode
        As for `dnn_conv`.
    **hints
        Have no effect.
    """

    def __init__(self, border_mode: Any, subsample: Any = (1, 1), conv_mode: str = "conv", **hints: Any):
        self.settings = (border_mode, subsample, conv_mode)

    def __call__(self, *shapes: Any) -> "GpuDnnConvDesc":
        return self


class _ByDescriptor:
    """Takes cuDNN's hints of how to compute, which have no effect."""

    def __init__(self, *hints: Any, **more_hints: Any):
        pass


class GpuDnnConv(_ByDescriptor):
    """A convolution: of images, filters, an output (only Theano needed it), and a `GpuDnnConvDesc`."""

    def __call__(self, img: Any, kern: Any, output: Any, desc: GpuDnnConvDesc, *scales: Any) -> Variable:
        border_mode, subsample, conv_mode = desc.settings
        return dnn_conv(img, kern, border_mode, subsample, conv_mode=conv_mode)


class GpuDnnConvGradI(_ByDescriptor):
    """The gradient for the images: of filters, the output's gradient, a tensor of their shape, and a descriptor."""

    def __call__(self, kern: Any, topgrad: Any, output: Any, desc: GpuDnnConvDesc, *scales: Any) -> Variable:
        return dnn_gradinput(kern, topgrad, [output.shape[axis] for axis in range(4)], *desc.settings)


class GpuDnnConvGradW(_ByDescriptor):
    """The gradient for the filters: of images, the output's gradient, a tensor of their shape, and a descriptor."""

    def __call__(self, img: Any, topgrad: Any, output: Any, desc: GpuDnnConvDesc, *scales: Any) -> Variable:
        return dnn_gradweight(img, topgrad, [output.shape[axis] for axis in range(4)], *desc.settings)


class GpuDnnPoolDesc:
    """What a pooling is like; calling it gives itself. Arguments as for `dnn_pool`."""

    def __init__(self, ws: Any = (1, 1), stride: Any = (1, 1), mode: str = "max", pad: Any = (0, 0)):
        self.settings = (ws, stride, mode, pad)

    def __call__(self) -> "GpuDnnPoolDesc":
        return self


class GpuDnnPool:
    """Pooling: of images and a `GpuDnnPoolDesc`; or, made with ``mode``, of images, window, stride and border."""

    def __init__(self, mode: str = "max"):
        self.mode = mode

    def __call__(self, img: Any, desc_or_ws: Any, stride: Any = None, pad: Any = None) -> Variable:
        if isinstance(desc_or_ws, GpuDnnPoolDesc):
            return dnn_pool(img, *desc_or_ws.settings)
        return dnn_pool(img, desc_or_ws, stride, self.mode, pad)


class GpuDnnSoftmax:
    """The softmax over channels, at each pixel ('channel') or over channels and pixels together ('instance').

    Parameters
    ----------
    tensor_format : {'bc01', 'b01c'}
        Where the channels are; theano.gpuarray had no such argument.
    algo : {'accurate', 'fast', 'log'}
        'log' gives the logarithm.
    mode : {'channel', 'instance'}
    """

    def __init__(self, *arguments: str, algo: str = "accurate", mode: str = "channel"):
        self.channels = 3 if "b01c" in arguments else 1
        given = [argument for argument in arguments if argument not in ("bc01", "b01c")]
        self.algo, self.mode = [*given, *[algo, mode][len(given) :]]

    def __call__(self, x: Any) -> Variable:
        x = pt.as_tensor_variable(x)
        function = special.log_softmax if self.algo == "log" else special.softmax
        if self.mode == "channel":
            return function(x, axis=self.channels)
        return function(x.flatten(2), axis=1).reshape(x.shape)


# --------------------------------------------------------------------------------------------- batch normalisation


def dnn_batch_normalization_train(
    inputs: Any, gamma: Any, beta: Any, mode: str = "per-activation", epsilon: float = 1e-4, *args: Any, **kwargs: Any
) -> tuple[Variable, ...]:
    """`theano.tensor.nnet.bn.batch_normalization_train`, whose ``axes`` are called ``mode``."""
    return bn.batch_normalization_train(inputs, gamma, beta, mode, epsilon, *args, **kwargs)


def dnn_batch_normalization_test(
    inputs: Any, gamma: Any, beta: Any, mean: Any, var: Any, mode: str = "per-activation", epsilon: float = 1e-4
) -> Variable:
    """`theano.tensor.nnet.bn.batch_normalization_test`, whose ``axes`` are called ``mode``."""
    return bn.batch_normalization_test(inputs, gamma, beta, mean, var, mode, epsilon)


__getattr__, __dir__ = mirror(
    __name__,
    missing={
        "RNNBlock": "write the recurrence with theano.scan",
        "dnn_spatialtf": "sample with indices that T.floor gives, weighted bilinearly",
    },
)
