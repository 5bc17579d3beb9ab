"""Activations of maps, and of what is computed from maps, are computed in vectors."""

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar.basic import Mul, Sqr, Sub, Tanh
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import Sum

from pytensor_convnet.ops import TanhGrad
from pytensor_convnet.ops.activations import rational_tanh
from pytensor_convnet.ops.base import FLOATS, ConvnetOp
from pytensor_convnet.rewriting.databases import register_fusing, register_last
from pytensor_convnet.rewriting.elementwise import is_elementwise, is_one


@register_fusing("numba")
@node_rewriter([Elemwise])
def vectorize_tanh(fgraph, node):
    """``tanh(maps)`` -> ``rational_tanh(maps)``, for float32 numbers that one of our Ops had a part in."""
    (old,) = node.outputs if len(node.outputs) == 1 else (None,)
    if old is None or type(node.op.scalar_op) is not Tanh or old.type.dtype != "float32":
        return None
    if not of_maps(node.inputs[0]):
        return None
    new = Elemwise(rational_tanh)(*node.inputs)
    copy_stack_trace(old, new)
    return [new]


@register_last("numba")
@node_rewriter([Sum])
def fuse_tanh_grad_and_bias_grad(fgraph, node):
    """``g * (1 - tanhs**2)`` and its sum over all but channels -> ``TanhGrad(tanhs, g)``, if maps had a part in it."""
    (maps_grad,) = node.inputs
    if node.op.axis != (0, 2, 3) or maps_grad.type.dtype not in FLOATS or maps_grad.owner is None:
        return None
    if len(fgraph.clients[maps_grad]) == 1:
        return None  # a sum alone need not write the product
    factors = maps_grad.owner.inputs if is_elementwise(maps_grad.owner, Mul) else []
    for place, tanhs in enumerate(map(_tanhs_of_slope, factors)):
        if tanhs is None or not of_maps(tanhs):
            continue
        others = [*factors[:place], *factors[place + 1 :]]
        gradient = others[0] if len(others) == 1 else pt.mul(*others)
        if gradient.type.dtype != tanhs.type.dtype or gradient.type.broadcastable != tanhs.type.broadcastable:
            continue
        pairs = dict(zip((maps_grad, node.outputs[0]), TanhGrad()(tanhs, gradient)))
        if all(old.type.is_super(new.type) for old, new in pairs.items()):
            copy_stack_trace(list(pairs), list(pairs.values()))
            return pairs
    return None


def _tanhs_of_slope(slope: Variable) -> Variable | None:
    """What ``slope`` is one minus the square of."""
    if slope.owner is None or not is_elementwise(slope.owner, Sub) or not is_one(slope.owner.inputs[0]):
        return None
    square = slope.owner.inputs[1].owner
    return square.inputs[0] if square is not None and is_elementwise(square, Sqr) else None


def of_maps(variable: Variable) -> bool:
    """Whether an Op of this package is among those that a variable is computed by."""
    seen, waiting = set(), [variable]
    while waiting:
        node = waiting.pop().owner
        if node is None or node in seen:
            continue
        if isinstance(node.op, ConvnetOp):
            return True
        seen.add(node)
        waiting += node.inputs
    return False
