"""``theano.tensor.nnet``: what networks are made of."""

import warnings
from collections.abc import Sequence
from typing import Any

from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror, warn_of_old_argument
from pytensor_convnet.compat.theano.tensor.nnet import abstract_conv, bn, conv, neighbours, sigm
from pytensor_convnet.compat.theano.tensor.nnet.abstract_conv import (
    conv2d_grad_wrt_inputs,
    conv2d_transpose,
    conv3d,
    separable_conv2d,
)
from pytensor_convnet.compat.theano.tensor.nnet.bn import (
    batch_normalization,
    batch_normalization_test,
    batch_normalization_train,
)
from pytensor_convnet.compat.theano.tensor.nnet.conv import ConvOp
from pytensor_convnet.compat.theano.tensor.nnet.nnet import (
    binary_crossentropy,
    categorical_crossentropy,
    confusion_matrix,
    crossentropy_categorical_1hot,
    crossentropy_softmax_1hot,
    crossentropy_softmax_1hot_with_bias,
    crossentropy_softmax_argmax_1hot_with_bias,
    elu,
    logsoftmax,
    relu,
    selu,
    sigmoid_binary_crossentropy,
    softmax,
    softmax_with_bias,
    softsign,
)
from pytensor_convnet.compat.theano.tensor.nnet.sigm import hard_sigmoid, sigmoid, softplus, ultra_fast_sigmoid

__all__ = [
    "ConvOp",
    "abstract_conv",
    "batch_normalization",
    "batch_normalization_test",
    "batch_normalization_train",
    "binary_crossentropy",
    "bn",
    "categorical_crossentropy",
    "confusion_matrix",
    "conv",
    "conv2d",
    "conv2d_grad_wrt_inputs",
    "conv2d_transpose",
    "conv3d",
    "crossentropy_categorical_1hot",
    "crossentropy_softmax_1hot",
    "crossentropy_softmax_1hot_with_bias",
    "crossentropy_softmax_argmax_1hot_with_bias",
    "elu",
    "hard_sigmoid",
    "logsoftmax",
    "neighbours",
    "relu",
    "selu",
    "separable_conv2d",
    "sigm",
    "sigmoid",
    "sigmoid_binary_crossentropy",
    "softmax",
    "softmax_with_bias",
    "softplus",
    "softsign",
    "ultra_fast_sigmoid",
]


def conv2d(
    input: Any,
    filters: Any,
    input_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    filter_flip: bool = True,
    image_shape: Sequence[Any] | None = None,
    filter_dilation: Any = (1, 1),
    num_groups: int = 1,
    unshared: bool = False,
    **ignored: Any,
) -> Variable:
    """Convolve images with a bank of filters: `pytensor_convnet.conv2d`, and Theano's warnings.

    Parameters
    ----------
    input, filters, input_shape, filter_shape, border_mode, subsample, filter_flip
    filter_dilation, num_groups, unshared
        As for `pytensor_convnet.conv2d`. The batch in ``input_shape`` is a hint: other batches are taken too.
    image_shape : sequence of int or None, optional
        The old name of ``input_shape``.
    **ignored
        Arguments of still older versions (``version``, ``unroll_batch``, ...): named in a warning.

    Returns
    -------
    tensor of shape (batch, filters, output rows, output columns)

    Raises
    ------
    ValueError
        As `pytensor_convnet.conv2d`; or if upsampling is asked for by ``imshp_logical`` or ``kshp_logical``.
    """
    if "imshp_logical" in ignored or "kshp_logical" in ignored:
        raise ValueError("imshp_logical and kshp_logical are not supported: to raise resolution, use conv2d_transpose")
    if ignored:
        names = ", ".join(sorted(ignored))
        warnings.warn(f"DEPRECATION: conv2d ignores arguments that older versions had: {names}", stacklevel=2)
    if image_shape is not None:
        warn_of_old_argument("conv2d", "image_shape", "input_shape")
        if input_shape is not None:
            raise ValueError("input_shape and image_shape are two names of one argument: give one of them")
        input_shape = image_shape
    return abstract_conv.conv2d(
        input,
        filters,
        input_shape,
        filter_shape,
        border_mode,
        subsample,
        filter_flip,
        filter_dilation,
        num_groups,
        unshared,
    )


__getattr__, __dir__ = mirror(
    __name__,
    "pytensor_convnet.compat.theano.tensor.nnet.nnet",
    "pytensor.tensor.special",
    missing={"h_softmax": "build it from two T.nnet.softmax, one over classes and one within a class"},
)
