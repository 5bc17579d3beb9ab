"""Programs in c01b, or any other layout, become programs in bc01, which is what the Ops and other rewrites know.

An Op of `cuda_convnet` shuffles its images from c01b to bc01 and its maps back. Two shuffles in a row cancel in
PyTensor's own canonicalization; but where activations, biases or their derivatives lie between them, each shuffle
would stay: elementwise Ops would walk through memory against its order, and no other rewrite would see that a
pooling follows a convolution. Elementwise Ops do not care for the order of axes, and reductions need only be told
which they are, so both are done in the layout in which their arguments come.

PyTensor lifts shuffles over elementwise Ops with one reader; the derivatives of activations are a second one.
"""

from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise

from pytensor_convnet.rewriting.databases import register_canonical, replacements

Order = tuple[int, ...]
"""A permutation of axes, as `dimshuffle` takes it."""


@register_canonical
@node_rewriter([DimShuffle])
def cancel_shuffles(fgraph, node):
    """``shuffle(f(shuffle_back(x), y))`` -> ``f(x, shuffle(y))`` for elementwise ``f``."""
    order = permutation(node)
    if order is None or order == tuple(range(len(order))):
        return None
    moved = unshuffled(node.inputs[0], order)
    if moved is None:
        return None
    copy_stack_trace(node.outputs[0], moved)
    return replacements(node, [moved])


@register_canonical
@node_rewriter([CAReduce])
def reduce_before_shuffle(fgraph, node):
    """``sum(f(shuffle(x)), axes)`` -> ``sum(f(x), the same axes of x)``, and other reductions, if nothing else needs
    ``f(shuffle(x))``.

    All arguments of ``f`` must have been shuffled: of two that lie differently, either could be moved, for ever.
    """
    [argument] = node.inputs
    shuffle = nearest_shuffle(argument)
    if shuffle is None or not _only_reductions_read(fgraph, argument):
        return None
    moved = unshuffled(argument, inverse(shuffle), wholly=True)
    if moved is None:
        return None
    axes = range(len(shuffle)) if node.op.axis is None else node.op.axis
    reduced = node.op.clone(axis=tuple(sorted(shuffle[axis] for axis in axes)))(moved)
    kept = [shuffle[axis] for axis in range(len(shuffle)) if axis not in axes]
    if kept != sorted(kept):
        reduced = reduced.dimshuffle([sorted(kept).index(axis) for axis in kept])
    copy_stack_trace(node.outputs[0], reduced)
    return replacements(node, [reduced])


def permutation(node: Apply | None) -> Order | None:
    """The order in which a node puts axes, if it does that and neither drops nor adds any."""
    if node is None or not isinstance(node.op, DimShuffle):
        return None
    order = tuple(node.op.new_order)
    return order if sorted(map(str, order)) == sorted(map(str, range(node.inputs[0].type.ndim))) else None


def inverse(order: Order) -> Order:
    return tuple(order.index(axis) for axis in range(len(order)))


def _arguments(variable: Variable) -> list[Variable]:
    """The arguments of an elementwise function that have its shape; none if ``variable`` is no such function."""
    node = variable.owner
    if node is None or not isinstance(node.op, Elemwise) or len(node.outputs) != 1:
        return []
    return [x for x in node.inputs if x.type.broadcastable == variable.type.broadcastable]


def unshuffled(variable: Variable, order: Order, *, wholly: bool = False) -> Variable | None:
    """``variable.dimshuffle(order)`` without a shuffle of anything that has its shape and was just shuffled.

    ``None`` unless some such argument there is; or ``wholly``, unless all arguments of its shape are such.
    """
    known: dict[Variable, Variable | None] = {}

    def moved(x: Variable) -> Variable | None:
        if x not in known:
            known[x] = _unshuffled(x)
        return known[x]

    def _unshuffled(x: Variable) -> Variable | None:
        shuffle = permutation(x.owner)
        if shuffle is not None:
            return x.owner.inputs[0] if order == inverse(shuffle) else None
        staying = [moved(entry) is None for entry in _arguments(x)]
        if all(staying) or (wholly and any(staying)):
            return None
        inputs = [entry.dimshuffle(order) if moved(entry) is None else moved(entry) for entry in x.owner.inputs]
        return x.owner.op.make_node(*inputs).outputs[0]

    return moved(variable)


def nearest_shuffle(variable: Variable) -> Order | None:
    """The shuffle of an argument from which ``variable`` is elementwise computed."""
    shuffle = permutation(variable.owner)
    if shuffle is not None:
        return None if shuffle == tuple(range(len(shuffle))) else shuffle
    found = (nearest_shuffle(entry) for entry in _arguments(variable))
    return next((shuffle for shuffle in found if shuffle is not None), None)


def _only_reductions_read(fgraph: FunctionGraph, variable: Variable) -> bool:
    return all(isinstance(getattr(client, "op", None), CAReduce) for client, _ in fgraph.clients[variable])
