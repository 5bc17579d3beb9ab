"""Bias, rectifier and average pooling become one step, and so does their gradient: what lies between is not written.

The rectifier's gradient tells from the biased maps which of them it lets pass. Fused, it reads the maps before the bias
and adds that again, which costs nothing beside reading them.

A rectifier without a pool is the same with windows of one pixel. That saves PyTensor's elementwise loops, which use one
thread and no vectors, where maps are large: those that an Op of this package had a part in.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar.basic import Cast, Mul
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import Sum

from pytensor_convnet.ops import AveragePool2d, AveragePool2dGrad, RectifiedAveragePool2d, RectifiedAveragePool2dGrad
from pytensor_convnet.ops.base import FLOATS
from pytensor_convnet.rewriting.activations import of_maps
from pytensor_convnet.rewriting.databases import register_fusing, register_last
from pytensor_convnet.rewriting.elementwise import biases_of, is_elementwise, is_sign, rectifies, uncast
from pytensor_convnet.rewriting.resolution import same

_ONE_PIXEL = (1, 1), (1, 1), ((0, 0), (0, 0))


@register_fusing("numba", "cuda")
@node_rewriter([AveragePool2d])
def fuse_rectifier_and_average_pool(fgraph, node):
    """``AveragePool2d(maximum(images + biases, 0))`` and its gradients for both -> one Op each.

    The gradient for images is ``(images + biases >= 0) * AveragePool2dGrad(maps)``, its sum that for biases. Where it
    is muted there now is zero, not ``0 * g``, which would be NaN where ``g`` is infinite or NaN.
    """
    rectified, *windows = node.inputs
    rectifier = _rectifier_of(fgraph, rectified)
    if rectifier is None:
        return None
    if any(client is not node and client not in rectifier.signs for client, _ in fgraph.clients[rectified]):
        return None

    def maps_of(others):
        """The maps whose gradient is a factor, and those that are left."""
        spread = next((x for x in others if _is_gradient_of(x, node)), None)
        if (
            spread is None
            or not _alike(spread, rectified)
            or any(client not in rectifier.products for client, _ in fgraph.clients[spread])
        ):
            return None
        return spread.owner.inputs[0], [x for x in others if x is not spread]

    return _replaced(fgraph, node.outputs[0], RectifiedAveragePool2d(*node.op._props()), windows, rectifier, maps_of)


@register_last("numba")
@node_rewriter([Elemwise])
def fuse_bias_and_rectifier(fgraph, node):
    """``maximum(images + biases, 0)`` and its gradients for both -> the same, with windows of one pixel."""
    rectified = node.outputs[0]
    if rectified.type.ndim != 4 or rectified.type.dtype not in FLOATS:
        return None
    rectifier = _rectifier_of(fgraph, rectified)
    if rectifier is None or not of_maps(rectifier.biased):
        return None
    return _replaced(fgraph, rectified, RectifiedAveragePool2d("sum"), _ONE_PIXEL, rectifier, _product_of)


def _product_of(factors: list[Variable]) -> tuple[Variable, list[Variable]] | None:
    """The product of all factors, if there are any, and none that are left."""
    return (pt.mul(*factors) if len(factors) > 1 else factors[0], []) if factors else None


class _Rectifier(NamedTuple):
    """A rectifier whose argument nothing else reads but its gradient."""

    biased: Variable
    signs: list[Apply]  # where it passes
    products: list[Apply]  # of those and gradients


def _rectifier_of(fgraph, rectified: Variable) -> _Rectifier | None:
    node = rectified.owner
    inputs = [] if node is None else node.inputs
    biased = next((x for x in inputs if rectifies(node, x) and _alike(x, rectified)), None)
    if biased is None:
        return None
    signs = [client for client, _ in fgraph.clients[biased] if client is not node]
    if not all(is_sign(sign, biased, rectified) for sign in signs):
        return None
    products = _readers(fgraph, signs)
    return _Rectifier(biased, signs, products) if all(is_elementwise(reader, Mul) for reader in products) else None


def _alike(a: Variable, b: Variable) -> bool:
    return (a.type.dtype, a.type.broadcastable) == (b.type.dtype, b.type.broadcastable)


def _readers(fgraph, signs: list[Apply]) -> list[Apply]:
    """What reads these signs, as they are or cast."""
    readers = [client for sign in signs for client, _ in fgraph.clients[sign.outputs[0]]]
    casts = [reader for reader in readers if is_elementwise(reader, Cast)]
    readers += [client for cast in casts for client, _ in fgraph.clients[cast.outputs[0]]]
    return [reader for reader in dict.fromkeys(readers) if reader not in casts]


def _replaced(
    fgraph, old: Variable, op: RectifiedAveragePool2d, windows, rectifier: _Rectifier, maps_of: Callable
) -> dict[Variable, Variable] | None:
    """``old`` by ``op``, and the products with signs, and their sums, by its gradient.

    ``maps_of(factors)`` finds of what ``op``'s gradient is a factor, and the other factors; ``None`` if it is not.
    """
    images, biases = _images_and_biases(rectifier.biased)
    pairs = {old: op.make_node(images, biases, *windows).outputs[0]}
    shown = [sign.outputs[0] for sign in rectifier.signs]
    for product in rectifier.products:
        factors = [pairs.get(x, x) for x in product.inputs if uncast(x) not in shown]
        found = maps_of(factors) if len(factors) == len(product.inputs) - 1 else None
        if found is None:
            return None
        maps, others = pairs.get(found[0], found[0]), found[1]
        if not _alike(maps, old):
            return None
        images_grad, biases_grad = RectifiedAveragePool2dGrad(*op._props())(images, biases, maps, *windows)
        pairs[product.outputs[0]] = pt.mul(images_grad, *others) if others else images_grad
        if not others:
            sums = [client for client, _ in fgraph.clients[product.outputs[0]] if _is_sum_of_channels(client)]
            pairs |= {client.outputs[0]: biases_grad for client in sums}
    for variable, new in pairs.items():
        copy_stack_trace(variable, new)
    return pairs if all(variable.type.is_super(new.type) for variable, new in pairs.items()) else None


def _images_and_biases(biased: Variable) -> tuple[Variable, Variable]:
    """Two variables whose sum is ``biased``, the second a number for each channel."""
    for images in [] if biased.owner is None else biased.owner.inputs:
        biases = biases_of(biased.owner, images)
        if biases is not None and images.type.dtype == biased.type.dtype:
            return images, biases
    return biased, pt.zeros(biased.type.shape[1] or biased.shape[1], dtype=biased.type.dtype)


def _is_gradient_of(x: Variable, pool: Apply) -> bool:
    """Whether ``x`` is the gradient of an average pool."""
    if x.owner is None or not isinstance(x.owner.op, AveragePool2dGrad) or x.owner.op._props() != pool.op._props():
        return False
    return all(same(a, b) for a, b in zip(x.owner.inputs[3:], pool.inputs[1:], strict=True))


def _is_sum_of_channels(node: Apply) -> bool:
    return isinstance(node.op, Sum) and node.op.axis == (0, 2, 3)
