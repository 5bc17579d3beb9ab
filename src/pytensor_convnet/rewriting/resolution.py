"""Telling the value of a full-resolution variable at the pixels that won.

Where ``maxima, winners = MaxPool2d(images)``, an elementwise function of ``images`` takes at the winning pixels the
values that the same function takes of ``maxima``. That one fact lets functions move past max pools, and derivatives
past their gradients.
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable
from pytensor.tensor.basic import Alloc, get_underlying_scalar_constant_value
from pytensor.tensor.elemwise import Elemwise

from pytensor_convnet.ops import MaxPool2d


def constant_over_windows(variable: Variable) -> bool:
    """Whether a bc01 variable has one value for a whole plane, whatever the window: biases, scalars."""
    return variable.type.broadcastable[-2:] == (True, True)


def constant_values(variable: Variable) -> tuple[float, float] | None:
    """The least and the greatest value of a finite constant; ``None`` of anything else."""
    constant = isinstance(variable, Constant)
    value = variable.data if constant else get_underlying_scalar_constant_value(variable, raise_not_constant=False)
    if isinstance(value, Variable) or np.size(value) == 0 or not np.isfinite(value).all():
        return None
    return float(np.min(value)), float(np.max(value))


def same(first: Variable, second: Variable) -> bool:
    """Whether two variables are known to have one value."""
    constant = isinstance(first, Constant) and isinstance(second, Constant)
    return first is second or (constant and first.equals(second))


def pooled_by(winners: Variable, windows: list[Variable]) -> tuple[Variable, Variable] | None:
    """The images and maxima whose winners these are, if they were pooled with the same ``windows``."""
    node = winners.owner
    if node is None or not isinstance(node.op, MaxPool2d) or winners is not node.outputs[1]:
        return None
    if not all(map(same, node.inputs[1:], windows)):
        return None
    return node.inputs[0], node.outputs[0]


def at_winners(variable: Variable, images: Variable | None, maxima: Variable | None) -> Variable | None:
    """``variable`` at the pixels of ``images`` that won ``maxima``; ``None`` where that is not known.

    Known are elementwise functions of ``images`` and of variables that are constant over windows; the latter keep
    their shape and broadcast.
    """
    known: dict[Variable, Variable | None] = {} if images is None else {images: maxima}

    def value(x: Variable) -> Variable | None:
        if x not in known:
            known[x] = x if constant_over_windows(x) else computed(x)
        return known[x]

    def computed(x: Variable) -> Variable | None:
        if x.owner is None:
            return None
        if isinstance(x.owner.op, Alloc):
            filling = x.owner.inputs[0]
            filling = pt.shape_padleft(filling, x.type.ndim - filling.type.ndim)
            return filling if constant_over_windows(filling) else None
        if not isinstance(x.owner.op, Elemwise):
            return None
        inputs = [value(entry) for entry in x.owner.inputs]
        if any(entry is None for entry in inputs):
            return None
        return x.owner.op.make_node(*inputs).outputs[x.owner.outputs.index(x)]

    return value(variable)
