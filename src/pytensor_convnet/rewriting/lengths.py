"""What follows from shapes alone is known when JAX or MLX compiles a function for them.

These have the shapes of arguments in numbers then, and make new arrays of such shapes only as are numbers, too. But
what PyTensor computes with lengths, they would compute with arrays: not before the function runs.
"""

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.tensor.basic import MakeVector
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Shape_i
from pytensor.tensor.type import discrete_dtypes

from pytensor_convnet.ops.base import ConvnetOp
from pytensor_convnet.ops.lengths import KnownLength, KnownLengths
from pytensor_convnet.rewriting.databases import register_in_our_graphs


@register_in_our_graphs("jax", "mlx")
def know_lengths(fgraph: FunctionGraph, node: Apply) -> Variable | None:
    """``Elemwise(f)(lengths)`` -> ``KnownLength(f)(lengths)``."""
    if (
        len(node.outputs) != 1
        or node.outputs[0].type.dtype not in discrete_dtypes
        or not all(map(_is_length, node.inputs))
    ):
        return None
    if isinstance(node.op, Elemwise):
        return KnownLength(node.op.scalar_op)(*node.inputs)
    # PyTensor has an Op of its own for vectors of lengths that are shapes; windows are ours.
    windows = isinstance(node.op, MakeVector) and node.outputs[0].type.dtype == "int64"
    if windows and all(isinstance(client.op, ConvnetOp) for client, _ in fgraph.clients[node.outputs[0]]):
        return KnownLengths()(*node.inputs)
    return None


def _is_length(x: Variable) -> bool:
    """Whether ``x`` is a single integer that is known when shapes are."""
    if x.type.ndim or x.type.dtype not in discrete_dtypes:
        return False
    return isinstance(x, Constant) or (x.owner is not None and isinstance(x.owner.op, Shape_i | KnownLength))
