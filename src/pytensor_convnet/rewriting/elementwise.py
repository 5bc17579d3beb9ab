"""What an elementwise node computes, as far as those rewrites ask that make it part of another Op."""

from pytensor.graph.basic import Apply, Variable
from pytensor.scalar.basic import EQ, GE, Add, Cast, Maximum
from pytensor.tensor.basic import get_underlying_scalar_constant_value
from pytensor.tensor.elemwise import DimShuffle, Elemwise


def is_elementwise(node: Apply, scalar_op: type) -> bool:
    """Whether a node applies such an operation to every number."""
    return isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, scalar_op)


def is_zero(x: Variable) -> bool:
    """Whether ``x`` is known to be zero everywhere."""
    return _is_known(x, 0)


def is_one(x: Variable) -> bool:
    """Whether ``x`` is known to be one everywhere."""
    return _is_known(x, 1)


def _is_known(x: Variable, number: int) -> bool:
    value = get_underlying_scalar_constant_value(x, raise_not_constant=False)
    return not isinstance(value, Variable) and bool(value == number)


def uncast(x: Variable) -> Variable:
    """What is cast to ``x``, or ``x``."""
    return x.owner.inputs[0] if x.owner is not None and is_elementwise(x.owner, Cast) else x


def rectifies(node: Apply, x: Variable) -> bool:
    """Whether a node is ``maximum(x, 0)``."""
    others = [other for other in node.inputs if other is not x]
    return is_elementwise(node, Maximum) and len(others) == 1 and is_zero(others[0])


def is_sign(node: Apply, x: Variable, rectified: Variable) -> bool:
    """Whether a node tells where ``x`` is not negative: by ``x >= 0``, or as what a rectifier leaves alone."""
    if is_elementwise(node, EQ):
        return set(node.inputs) == {x, rectified}
    return is_elementwise(node, GE) and node.inputs[0] is x and is_zero(node.inputs[1])


def biases_of(node: Apply, x: Variable) -> Variable | None:
    """The vector that a node adds to ``x``, a number to each of its channels, and nothing else."""
    others = [other for other in node.inputs if other is not x]
    if not is_elementwise(node, Add) or len(node.inputs) != 2 or len(others) != 1:
        return None
    shift, total = others[0], node.outputs[0].type
    if shift.owner is None or not isinstance(shift.owner.op, DimShuffle):
        return None
    if shift.owner.op.new_order != ("x", 0, "x", "x") or x.type.broadcastable != total.broadcastable:
        return None
    (vector,) = shift.owner.inputs
    alike = vector.type.dtype == total.dtype and vector.type.broadcastable[0] == total.broadcastable[1]
    return vector if alike else None
