"""``theano.tensor.xlogx``: products with logarithms that are 0 where their first factor is."""

from typing import Any

from pytensor.graph.basic import Variable
from pytensor.tensor import special
from pytensor.tensor import xlogx as _xlogx

from pytensor_convnet.compat.mirror import mirror


def xlogx(x: Any) -> Variable:
    """``x * log(x)``, and 0 where ``x`` is."""
    return xlogy0(x, x)


def xlogy0(x: Any, y: Any) -> Variable:
    """``x * log(y)``, and 0 where ``x`` is."""
    # PyTensor has renamed it, and warns of the old name.
    return special.xlogy(x, y) if hasattr(special, "xlogy") else _xlogx.xlogy0(x, y)


__getattr__, __dir__ = mirror(__name__)
