"""``theano.sandbox.cuda.fftconv``: convolution by Fourier transforms; here, by the one convolution that there is."""

from collections.abc import Sequence
from typing import Any

from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet.abstract_conv import without_batch
from pytensor_convnet.compat.theano.tensor.nnet.three_dimensions import conv3d


def conv2d_fft(
    input: Any,
    filters: Any,
    image_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    pad_last_dim: bool = False,
) -> Variable:
    """`pytensor_convnet.conv2d`; ``pad_last_dim``, which the transform needed, has no effect."""
    return ours.conv2d(input, filters, without_batch(image_shape), filter_shape, border_mode)


def conv3d_fft(
    input: Any,
    filters: Any,
    image_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    pad_last_dim: bool = False,
) -> Variable:
    """`theano.tensor.nnet.conv3d`; ``pad_last_dim``, which the transform needed, has no effect."""
    return conv3d(input, filters, image_shape, filter_shape, border_mode)


__getattr__, __dir__ = mirror(__name__)
