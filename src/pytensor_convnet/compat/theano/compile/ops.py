"""``theano.compile.ops``: small operators, and those that a function of arrays makes."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from pytensor.compile.ops import wrap_py

from pytensor_convnet.compat.mirror import mirror


def as_op(itypes: Any, otypes: Any, infer_shape: Callable[..., Sequence[Any]] | None = None) -> Callable[..., Any]:
    """Make an operator of a function of arrays: a decorator.

    Parameters
    ----------
    itypes, otypes : type or list of types
        Of the inputs and outputs.
    infer_shape : callable, optional
        The shapes of the outputs, from the node and the shapes of the inputs.

    Returns
    -------
    callable
        Takes the function, gives the operator, which has no gradient.
    """
    if infer_shape is None or len(inspect.signature(infer_shape).parameters) != 2:
        return wrap_py(itypes, otypes, infer_shape)
    return wrap_py(itypes, otypes, lambda fgraph, node, shapes: infer_shape(node, shapes))


__getattr__, __dir__ = mirror(__name__, "pytensor.compile.ops", "pytensor.tensor.shape")
