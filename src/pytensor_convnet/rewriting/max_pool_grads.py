"""What happens to a scattered gradient happens before it is scattered, to fewer values.

`MaxPool2dGrad` leaves zero everywhere but at winning pixels. So a product with it needs its other factors only there,
where `resolution` tells them from the maxima; a sum over all pixels is the sum of what was scattered; and
gradients that the same winners scatter add up before.

Factors that are infinite or NaN at a pixel that did not win made NaN of the zero there; now they are not looked at.
"""

import pytensor.scalar as ps
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.tensor.math import Sum
from pytensor.tensor.rewriting.basic import elemwise_of

from pytensor_convnet.ops import MaxPool2dGrad
from pytensor_convnet.rewriting.databases import register_moving, replacements
from pytensor_convnet.rewriting.resolution import at_winners, constant_values, pooled_by, same


def scatter_of(variable: Variable) -> Apply | None:
    """The `MaxPool2dGrad` that made ``variable``, if one did."""
    node = variable.owner
    return node if node is not None and isinstance(node.op, MaxPool2dGrad) else None


@register_moving
@node_rewriter([elemwise_of(op) for op in (ps.Mul, ps.TrueDiv, ps.Neg, ps.Switch)])
def move_product_before_max_pool_grad(fgraph, node):
    """``MaxPool2dGrad(winners, maps) * h(images)`` -> ``MaxPool2dGrad(winners, maps * h(maxima))``."""
    for places in _linear_places(node):
        scatter = _common_scatter([node.inputs[place] for place in places])
        if scatter is None or scatter.outputs[0].type.broadcastable != node.outputs[0].type.broadcastable:
            continue
        winners, _, *lengths_and_windows = scatter.inputs
        images, maxima = pooled_by(winners, lengths_and_windows[2:]) or (None, None)
        factors = []
        for place, x in enumerate(node.inputs):
            scattered = scatter_of(x) if place in places else None
            factors.append(at_winners(x, images, maxima) if scattered is None else scattered.inputs[1])
        if all(factor is not None for factor in factors):
            return _scattered(node, scatter, node.op.make_node(*factors).outputs[0])
    return None


@register_moving
@node_rewriter([elemwise_of(op) for op in (ps.Add, ps.Sub)])
def add_before_max_pool_grad(fgraph, node):
    """The sum (or difference) of maps that the same winners scatter is scattered once."""
    scatters = [scatter_of(x) for x in node.inputs]
    first = next((scatter for scatter in scatters if scatter is not None), None)
    alike = [scatter is not None and _same_scatter(first, scatter) for scatter in scatters]
    if sum(alike) < 2:
        return None
    maps = [scatter.inputs[1] for scatter, yes in zip(scatters, alike) if scatter is not None and yes]
    added = node.op.make_node(*maps).outputs[0]
    rest = [x for x, yes in zip(node.inputs, alike) if not yes]
    if not rest:
        return _scattered(node, first, added)
    sum_of_scatters = _scattered(node, first, added, part=True)
    total = node.op.make_node(sum_of_scatters, *rest).outputs[0]
    copy_stack_trace(node.outputs, total)
    return replacements(node, [total])


@register_moving
@node_rewriter([Sum])
def sum_before_max_pool_grad(fgraph, node):
    """The sum of all pixels of a plane is the sum of what was scattered over it: the gradient of a bias."""
    scatter = scatter_of(node.inputs[0])
    if scatter is None or not (node.op.axis is None or {2, 3} <= set(node.op.axis)):
        return None
    total = node.op.make_node(scatter.inputs[1]).outputs[0]
    copy_stack_trace(node.outputs, total)
    return replacements(node, [total])


def _linear_places(node: Apply) -> list[list[int]]:
    """Sets of inputs in which, jointly, an operation is linear: it may as well be done before scattering."""
    function = node.op.scalar_op
    if isinstance(function, ps.Mul):
        return [[place] for place in range(len(node.inputs))]
    if isinstance(function, ps.Switch):
        return [[1, 2]]
    return [[0]]  # of a quotient, and of a negation


def _common_scatter(variables: list[Variable]) -> Apply | None:
    """The node that scatters as all ``variables`` are scattered, but for those that are zero."""
    scatters = [scatter_of(x) for x in variables if constant_values(x) != (0, 0)]
    first = scatters[0] if scatters else None
    alike = first is not None and all(other is not None and _same_scatter(first, other) for other in scatters)
    return first if alike else None


def _same_scatter(first: Apply, second: Apply) -> bool:
    """Whether two nodes scatter by the same winners into images of the same size."""
    return all(same(a, b) for i, (a, b) in enumerate(zip(first.inputs, second.inputs)) if i != 1)


def _scattered(node: Apply, scatter: Apply, maps: Variable, *, part: bool = False):
    """``maps`` scattered as ``scatter`` does, to replace ``node``'s output (or a part of it)."""
    winners, _, *rest = scatter.inputs
    images = scatter.op.make_node(winners, maps, *rest).outputs[0]
    copy_stack_trace(node.outputs, [maps, images])
    return images if part else replacements(node, [images])
