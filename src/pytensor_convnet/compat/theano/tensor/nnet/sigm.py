"""``theano.tensor.nnet.sigm``: the logistic function and cheaper ones that look like it."""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror

sigmoid = pt.sigmoid
softplus = pt.softplus


def hard_sigmoid(x: Any) -> Variable:
    """``0.2 * x + 0.5``, clipped to the interval from 0 to 1."""
    x = pt.as_tensor_variable(x)
    return pt.clip(pt.constant(0.2, dtype=x.dtype) * x + 0.5, 0.0, 1.0)


def ultra_fast_sigmoid(x: Any) -> Variable:
    """Theano's approximation of the logistic function, within 0.03 of it, in three pieces for each sign.

    Parameters
    ----------
    x : tensor

    Returns
    -------
    tensor of the same shape

    Notes
    -----
    The pieces do not quite meet. Theano refused to differentiate it; here the gradient is that of each piece.
    """
    half = 0.5 * pt.as_tensor_variable(x)
    slope, middle_height, rest = (
        pt.constant(number, dtype=half.dtype) for number in (0.0458812946797165, 0.935409070603099, 0.99505475368673)
    )
    size = abs(half)
    near = 1.5 * half / (1.0 + size)
    middle = pt.sign(half) * (middle_height + slope * (size - 1.7))
    bent = pt.switch(size < 1.7, near, pt.switch(size < 3.0, middle, pt.sign(half) * rest))
    return 0.5 * (bent + 1.0)


__getattr__, __dir__ = mirror(__name__, "pytensor.tensor.math")
