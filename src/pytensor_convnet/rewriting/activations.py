"""Activations of maps are computed in vectors."""

from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar.basic import Tanh
from pytensor.tensor.elemwise import DimShuffle, Elemwise

from pytensor_convnet.ops.activations import rational_tanh
from pytensor_convnet.ops.base import ConvnetOp
from pytensor_convnet.rewriting.databases import register_fusing


@register_fusing("numba")
@node_rewriter([Elemwise])
def vectorize_tanh(fgraph, node):
    """``tanh(maps)`` -> ``rational_tanh(maps)``, for float32 maps that one of our Ops made."""
    (old,) = node.outputs if len(node.outputs) == 1 else (None,)
    if old is None or type(node.op.scalar_op) is not Tanh or old.type.dtype != "float32":
        return None
    if not _of_maps(node.inputs[0]):
        return None
    new = Elemwise(rational_tanh)(*node.inputs)
    copy_stack_trace(old, new)
    return [new]


def _of_maps(variable: Variable) -> bool:
    """Whether a variable comes, through nothing but elementwise Ops, from an Op of this package."""
    if variable.owner is None:
        return False
    op, inputs = variable.owner.op, variable.owner.inputs
    if isinstance(op, Elemwise | DimShuffle):
        return any(_of_maps(x) for x in inputs)
    return isinstance(op, ConvnetOp)
