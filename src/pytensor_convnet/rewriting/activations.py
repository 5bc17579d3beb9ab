"""Activations of maps, and of what is computed from maps, are computed in vectors."""

from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar.basic import Tanh
from pytensor.tensor.elemwise import Elemwise

from pytensor_convnet.ops.activations import rational_tanh
from pytensor_convnet.ops.base import ConvnetOp
from pytensor_convnet.rewriting.databases import register_fusing


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
