"""Bounds on the slopes of elementwise functions, by interval arithmetic; they tell which functions never decrease.

The slopes of ``y`` with respect to ``x`` are all values of ``(y(a) - y(b)) / (a - b)`` for two values of a pixel, while
everything that is constant over windows stays. A function never decreases if none is negative. Bounds for a sum are
sums of bounds, so ``0.5 * (x + abs(x))`` and leaky rectifiers need no patterns of their own.

Infinities and NaN are left aside, as in PyTensor's own rewrites: where they decide (``-inf + abs(-inf)`` is NaN, while
``switch(x > 0, x, 0)`` hides one), values may differ.
"""

from collections.abc import Callable
from math import inf, pi, sqrt

import pytensor.scalar as ps
from pytensor.graph.basic import Apply, Variable
from pytensor.scalar import math as psm
from pytensor.tensor.elemwise import Elemwise

from pytensor_convnet.ops.base import FLOATS
from pytensor_convnet.rewriting.resolution import constant_over_windows, constant_values

Interval = tuple[float, float]
Slopes = Callable[[Variable], Interval | None]
"""Tells what is known of a variable's slopes."""

_UNARY: dict[type, Interval] = {
    ps.Identity: (1, 1),
    ps.Neg: (-1, -1),
    ps.Abs: (-1, 1),
    ps.Tanh: (0, 1),
    ps.ArcTan: (0, 1),
    ps.ArcSinh: (0, 1),
    ps.Exp: (0, inf),
    ps.Exp2: (0, inf),
    ps.Expm1: (0, inf),
    ps.Sinh: (0, inf),
    ps.Floor: (0, inf),
    ps.Ceil: (0, inf),
    psm.Sigmoid: (0, 0.25),
    psm.Softplus: (0, 1),
    psm.Erf: (0, 2 / sqrt(pi)),
}
"""Functions of one variable that are defined everywhere; log and sqrt, which make NaN of a negative, are not."""

_THROUGH_ORIGIN = (ps.Identity, ps.Neg, ps.Abs, ps.Tanh, ps.ArcTan, ps.ArcSinh, ps.Expm1, ps.Sinh, psm.Erf)
_COMPARISONS = (ps.GT, ps.GE, ps.LT, ps.LE)


def never_decreases(variable: Variable, x: Variable) -> bool:
    """Whether ``variable`` is known to be a nondecreasing elementwise function of ``x``."""
    slopes = slopes_of(variable, x)
    return slopes is not None and slopes[0] >= 0


def slopes_of(variable: Variable, x: Variable) -> Interval | None:
    """Bounds on the slopes of ``variable`` with respect to ``x``; ``None`` if unknown."""
    known: dict[Variable, Interval | None] = {x: (1, 1)}

    def slopes(y: Variable) -> Interval | None:
        if y not in known:
            known[y] = (0, 0) if constant_over_windows(y) else _slopes_of_function(y, slopes)
        return known[y]

    return slopes(variable)


def _slopes_of_function(y: Variable, slopes: Slopes) -> Interval | None:
    """Bounds for an elementwise function, from those of its arguments."""
    node = y.owner
    if node is None or not isinstance(node.op, Elemwise) or y.type.dtype not in FLOATS:
        return None
    function = type(node.op.scalar_op)
    if function in _UNARY:
        return _composed(_UNARY[function], slopes(node.inputs[0]))
    return _RULES[function](node, slopes) if function in _RULES else None


# ---------------------------------------------------------------------------------------- intervals


def _composed(outer: Interval | None, inner: Interval | None) -> Interval | None:
    """Slopes of a function of a function: all products."""
    if outer is None or inner is None:
        return None
    products = [a * b if a and b else 0.0 for a in outer for b in inner]  # zero times infinity is zero here
    return min(products), max(products)


def _hull(intervals: list[Interval | None]) -> Interval | None:
    """The smallest interval that holds all of them."""
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


# -------------------------------------------------------------------------------------------- rules


def _constant(variable: Variable) -> Interval | None:
    """The least and the greatest value of a constant that is the same for all pixels of a window."""
    values = constant_values(variable)
    return values if constant_over_windows(variable) or values is None or values[0] == values[1] else None


def _sum(node: Apply, slopes: Slopes) -> Interval | None:
    terms = [slopes(entry) for entry in node.inputs]
    known = [term for term in terms if term is not None]
    return (sum(low for low, _ in known), sum(high for _, high in known)) if len(known) == len(terms) else None


def _difference(node: Apply, slopes: Slopes) -> Interval | None:
    first, second = (slopes(entry) for entry in node.inputs)
    return None if first is None or second is None else (first[0] - second[1], first[1] - second[0])


def _product(node: Apply, slopes: Slopes) -> Interval | None:
    constants = [values for values in map(_constant, node.inputs) if values is not None]
    others = [entry for entry in node.inputs if _constant(entry) is None]
    bounds = None
    if len(others) == 1:
        bounds = slopes(others[0])
    elif len(others) == 2:  # y * (y > 0)
        for factor, condition in (others, others[::-1]):
            if any(factor is bound for bound in _positive_where(condition)):
                bounds = _hull([slopes(factor), (0, 0)])
    for values in constants:
        bounds = _composed(values, bounds)
    return bounds


def _quotient(node: Apply, slopes: Slopes) -> Interval | None:
    values = _constant(node.inputs[1])
    if values is None or values[0] <= 0 <= values[1]:
        return None
    return _composed((1 / values[1], 1 / values[0]), slopes(node.inputs[0]))


def _extremum(node: Apply, slopes: Slopes) -> Interval | None:
    return _hull([slopes(entry) for entry in node.inputs])


def _clip(node: Apply, slopes: Slopes) -> Interval | None:
    clipped, least, most = node.inputs
    low, high = _constant(least), _constant(most)
    if low is None or high is None or low[1] > high[0]:
        return None
    return _hull([slopes(clipped), (0, 0)])


def _cast(node: Apply, slopes: Slopes) -> Interval | None:
    return slopes(node.inputs[0])  # only floats have slopes, so this is no cast to or from integers


def _switch(node: Apply, slopes: Slopes) -> Interval | None:
    """A choice by the sign of ``y`` between two functions that vanish with ``y``, and so meet there."""
    condition, *branches = node.inputs
    for y in _positive_where(condition):
        if all(_vanishes(branch, y) for branch in branches):
            return _hull([slopes(branch) for branch in branches])
    return None


def _positive_where(condition: Variable) -> list[Variable]:
    """The variables with whose sign a condition changes: ``y`` of ``y > 0`` and the like."""
    node = condition.owner
    if node is None or not isinstance(node.op, Elemwise):
        return []
    if isinstance(node.op.scalar_op, ps.Cast):
        return _positive_where(node.inputs[0])
    if not isinstance(node.op.scalar_op, _COMPARISONS):
        return []
    return [entry for entry, other in (node.inputs, node.inputs[::-1]) if _constant(other) == (0, 0)]


def _vanishes(variable: Variable, y: Variable) -> bool:
    """Whether ``variable`` is known to be zero where ``y`` is."""
    if variable is y or _constant(variable) == (0, 0):
        return True
    node = variable.owner
    if node is None or not isinstance(node.op, Elemwise):
        return False
    function = node.op.scalar_op
    if isinstance(function, ps.Mul):
        return any(_vanishes(entry, y) for entry in node.inputs)
    if isinstance(function, ps.Sub):
        first, second = node.inputs
        exponential = first.owner is not None and isinstance(getattr(first.owner.op, "scalar_op", None), ps.Exp)
        return exponential and _constant(second) == (1, 1) and _vanishes(first.owner.inputs[0], y)
    return isinstance(function, _THROUGH_ORIGIN) and _vanishes(node.inputs[0], y)


_RULES = {
    ps.Add: _sum,
    ps.Sub: _difference,
    ps.Mul: _product,
    ps.TrueDiv: _quotient,
    type(ps.scalar_maximum): _extremum,
    type(ps.scalar_minimum): _extremum,
    ps.Clip: _clip,
    ps.Cast: _cast,
    ps.Switch: _switch,
}
