"""Nondecreasing functions move past max pooling: ``max_pool(f(x))`` becomes ``f(max_pool(x))``.

The greatest pixel stays the greatest under tanh, a rectifier, or an added bias; a 2 x 2 pool then leaves a quarter of
the values to compute, and the same again in the gradient (`max_pool_grads`).

The pixel that wins ``x`` has a maximal ``f(x)``, so it may stand for the winner of ``f(x)``. It need not be the same
one: tanh of 20 and of 30 are equal in float32, and of equal pixels the first wins. The gradient then goes to the
pixel that is greatest before saturation; either choice is a subgradient.
"""

from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.tensor.elemwise import Elemwise

from pytensor_convnet.ops import MaxPool2d, MaxPool2dGather, MaxPool2dGrad
from pytensor_convnet.ops.base import FLOATS
from pytensor_convnet.rewriting.databases import register_moving, replacements
from pytensor_convnet.rewriting.resolution import at_winners, constant_over_windows
from pytensor_convnet.rewriting.slopes import never_decreases


@register_moving
@node_rewriter([MaxPool2d])
def move_function_past_max_pool(fgraph, node):
    """``MaxPool2d(f(x))`` -> ``f(MaxPool2d(x))`` for nondecreasing elementwise ``f``."""
    images, *windows = node.inputs
    if not _only_gradients_read(fgraph, node.outputs[1]):
        return None
    x = argument(images)
    if x is None:
        return None
    maxima, winners = node.op.make_node(x, *windows).outputs
    moved = at_winners(images, x, maxima)
    if moved is None:
        return None
    copy_stack_trace(node.outputs, [maxima, winners])
    copy_stack_trace(images, moved)
    return replacements(node, [moved, winners])


def _only_gradients_read(fgraph, winners: Variable) -> bool:
    """Whether any winner of a maximum will do; a caller who asked for the winners of ``f(x)`` gets those."""
    return all(isinstance(client.op, MaxPool2dGrad | MaxPool2dGather) for client, _ in fgraph.clients[winners])


def argument(images: Variable) -> Variable | None:
    """The variable nearest the graph's inputs of which ``images`` are a nondecreasing elementwise function."""
    for x in _elementwise_ancestors(images):
        alike = x.type.broadcastable == images.type.broadcastable and x.type.dtype in FLOATS
        if x is not images and alike and never_decreases(images, x):
            return x
    return None


def _elementwise_ancestors(images: Variable) -> list[Variable]:
    """What ``images`` are elementwise computed from, inputs before what is computed from them."""
    ordered: dict[Variable, None] = {}

    def visit(x: Variable) -> None:
        if x in ordered or constant_over_windows(x):
            return
        if x.owner is not None and isinstance(x.owner.op, Elemwise):
            for entry in x.owner.inputs:
                visit(entry)
        ordered[x] = None

    visit(images)
    return list(ordered)
