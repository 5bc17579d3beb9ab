"""``theano.tensor.signal.conv``: every image with every filter."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet.compat.mirror import mirror


def conv2d(
    input: Any,
    filters: Any,
    image_shape: Sequence[Any] | None = None,
    filter_shape: Sequence[Any] | None = None,
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    **ignored: Any,
) -> Variable:
    """Convolve each image with each filter; there are no channels.

    Parameters
    ----------
    input : tensor of shape ([images,] rows, columns)
    filters : tensor of shape ([filters,] rows, columns)
    image_shape, filter_shape : sequence of int or None, optional
        What is known beforehand of the shapes; the number of images is a hint.
    border_mode : {'valid', 'full'}
        Any other border mode of `pytensor_convnet.conv2d` is taken as well.
    subsample : (int, int)
        The stride.
    **ignored
        Told Theano how to compute; have no effect.

    Returns
    -------
    tensor of shape ([images,] [filters,] output rows, output columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.ones((3, 3)), np.ones((2, 2))).eval().tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    images, bank = pt.as_tensor_variable(input), pt.as_tensor_variable(filters)
    for tensor, name in ((images, "input"), (bank, "filters")):
        if tensor.ndim not in (2, 3):
            raise ValueError(f"{name} must have 2 or 3 axes ([number,] rows, columns), got {tensor.type}")
    if image_shape is not None:
        images = pt.specify_shape(images, (*(None,) * (images.ndim - 2), *list(image_shape)[-2:]))
    if filter_shape is not None:
        bank = pt.specify_shape(bank, (*(None,) * (bank.ndim - 2), *list(filter_shape)[-2:]))
    maps = ours.conv2d(
        images.dimshuffle(*("x", "x", 0, 1) if images.ndim == 2 else (0, "x", 1, 2)),
        bank.dimshuffle(*("x", "x", 0, 1) if bank.ndim == 2 else (0, "x", 1, 2)),
        border_mode=border_mode,
        subsample=subsample,
    )
    if bank.ndim == 2:
        maps = maps[:, 0]
    return maps if images.ndim == 3 else maps[0]


__getattr__, __dir__ = mirror(__name__, "pytensor.tensor.signal.conv")
