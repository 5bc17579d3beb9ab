"""``theano.tensor.xlogx``: products with logarithms that are 0 where their first factor is."""

from typing import Any

from pytensor.graph.basic import Variable
from pytensor.tensor.special import xlogy

from pytensor_convnet.compat.mirror import mirror


def xlogx(x: Any) -> Variable:
    """``x * log(x)``, and 0 where ``x`` is."""
    return xlogy(x, x)


def xlogy0(x: Any, y: Any) -> Variable:
    """``x * log(y)``, and 0 where ``x`` is."""
    return xlogy(x, y)


__getattr__, __dir__ = mirror(__name__)
