"""What follows from shapes alone is known when JAX or MLX compiles a function for them.

These have the shapes of arguments in numbers then, and make new arrays of such shapes only as are numbers, too. But
what PyTensor computes with lengths, they would compute with arrays: not before the function runs.
"""

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import GraphRewriter, copy_stack_trace
from pytensor.tensor.basic import MakeVector
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Shape_i
from pytensor.tensor.type import discrete_dtypes

from pytensor_convnet.ops.base import ConvnetOp
from pytensor_convnet.ops.lengths import KnownLength, KnownLengths
from pytensor_convnet.rewriting.databases import TAG


class KnowLengths(GraphRewriter):
    """``Elemwise(f)(lengths)`` -> ``KnownLength(f)(lengths)``, in graphs that hold one of our Ops."""

    def apply(self, fgraph):
        nodes = fgraph.toposort()
        if not any(isinstance(node.op, ConvnetOp) for node in nodes):
            return
        for node in nodes:
            new = _known(fgraph, node)
            if new is not None:
                copy_stack_trace(node.outputs[0], new)
                fgraph.replace(node.outputs[0], new, reason="know_lengths")


def _known(fgraph: FunctionGraph, node: Apply) -> Variable | None:
    """The output of a node by an Op that knows it, if it follows from lengths."""
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


# After our last step at 41; before elementwise fusion, from 48 on.
optdb.register("know_lengths", KnowLengths(), "jax", "mlx", TAG, position=42)
