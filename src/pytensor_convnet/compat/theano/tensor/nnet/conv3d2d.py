"""``theano.tensor.nnet.conv3d2d``: films, with time before channels."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet import three_dimensions


def conv3d(
    signals: Any,
    filters: Any,
    signals_shape: Sequence[Any] | None = None,
    filters_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
) -> Variable:
    """Convolve films with filters in space and time.

    Parameters
    ----------
    signals : tensor of shape (batch, time, channels, rows, columns)
    filters : tensor of shape (filters, time, channels, rows, columns)
    signals_shape, filters_shape : sequence of int or None, optional
        What is known beforehand of the shapes.
    border_mode : {'valid', 'full', 'half'} or three of them
        For time, rows and columns.

    Returns
    -------
    tensor of shape (batch, output time, filters, output rows, output columns)
    """
    films = pt.as_tensor_variable(signals).dimshuffle(0, 2, 1, 3, 4)
    bank = pt.as_tensor_variable(filters).dimshuffle(0, 2, 1, 3, 4)
    shapes = (_channels_first(signals_shape), _channels_first(filters_shape))
    return three_dimensions.conv3d(films, bank, *shapes, border_mode).dimshuffle(0, 2, 1, 3, 4)


def _channels_first(shape: Sequence[Any] | None) -> Sequence[Any] | None:
    return None if shape is None else [shape[axis] for axis in (0, 2, 1, 3, 4)]


__getattr__, __dir__ = mirror(__name__)
