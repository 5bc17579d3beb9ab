"""``theano.tensor.extra_ops``."""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.basic import repeat, squeeze

__all__ = ["repeat", "squeeze", "to_one_hot"]


def to_one_hot(y: Any, nb_class: Any, dtype: str | None = None) -> Variable:
    """Labels as rows that have a one at the label and zeros elsewhere.

    Parameters
    ----------
    y : integer tensor of shape (batch,)
        The labels.
    nb_class : int
        How many there are.
    dtype : str, optional
        By default ``theano.config.floatX``.

    Returns
    -------
    tensor of shape (batch, nb_class)

    Examples
    --------
    >>> to_one_hot([2, 0], 3, dtype="int8").eval().tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    labels = pt.as_tensor_variable(y)
    return pt.eq(labels[:, None], pt.arange(nb_class)[None, :]).astype("floatX" if dtype is None else dtype)


__getattr__, __dir__ = mirror(__name__, "pytensor.tensor.extra_ops", "pytensor.tensor")
