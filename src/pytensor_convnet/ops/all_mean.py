"""The mean over the processes of a run: what data parallelism adds to a graph.

    AllMean(tensors) -> means        on every process, the mean over processes of what each has there

All tensors of one node travel together. Processes that build the same graph meet at the same nodes; where a graph has
several, `rewriting.all_means` makes them a chain, so that no two processes can take them in different orders.
"""

from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import _vectorize_node

from pytensor_convnet.ops.base import evaluate

MEAN_DTYPES = ("float16", "float32", "float64")


class AllMean(Op):
    """The mean of each tensor over all processes; with one process, the tensor itself.

    Seen as a function of what all processes hold it is a projection, and its own adjoint: each process's value
    counts for 1/N in the mean that every process gets.
    """

    __props__ = ()

    def make_node(self, *tensors):
        if not tensors:
            raise ValueError("tensors must be at least one, got none")
        inputs = [_as_float(tensor, place) for place, tensor in enumerate(tensors)]
        return Apply(self, inputs, [x.type() for x in inputs])

    def infer_shape(self, *arguments):
        # PyTensor 3.0 passes (fgraph, node, shapes), later versions (node, shapes).
        return list(arguments[-1])

    def connection_pattern(self, node):
        places = range(len(node.inputs))
        return [[place == other for other in places] for place in places]

    def do_constant_folding(self, *arguments):
        """What is constant here need not be the same constant in another process."""
        return False

    def pullback(self, inputs, outputs, cotangents):
        return self._of_connected(cotangents)

    def pushforward(self, inputs, outputs, tangents):
        return self._of_connected(tangents)

    def perform(self, node, inputs, outputs):
        for storage, result in zip(outputs, evaluate(self, node, *inputs), strict=True):
            storage[0] = result

    def _of_connected(self, directions: Any) -> list[Variable]:
        """The means of those directions that are connected, together; the others stay disconnected."""
        connected = [place for place, x in enumerate(directions) if not isinstance(x.type, DisconnectedType)]
        results = [disconnected_type() for _ in directions]
        if connected:
            for place, mean in zip(connected, self.make_node(*(directions[i] for i in connected)).outputs):
                results[place] = mean
        return results


def _as_float(tensor: Any, place: int) -> Variable:
    """``tensor`` as a symbolic variable, with an error that tells its place if no mean of it can be taken."""
    try:
        variable = pt.as_tensor_variable(tensor)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"tensors must be tensors, got {tensor!r} at position {place}") from error
    if variable.type.dtype not in MEAN_DTYPES:
        raise ValueError(
            f"tensors must have a dtype among {', '.join(MEAN_DTYPES)}, got {variable.type.dtype} at position {place}. "
            "Cast it, for example with .astype('float32')."
        )
    return variable


@_vectorize_node.register(AllMean)
def _vectorize_as_it_is(op, node, *inputs):
    """Further axes are only further numbers."""
    return op.make_node(*inputs).outputs
