"""Bias, rectifier and average pooling become one step, and so does their gradient: what lies between is not written.

The rectifier's gradient tells from the biased maps which of them it lets pass. Fused, it reads the maps before the bias
and adds that again, which costs nothing beside reading them.
"""

import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar.basic import Cast, Mul
from pytensor.tensor.math import Sum

from pytensor_convnet.ops import AveragePool2d, AveragePool2dGrad, RectifiedAveragePool2d, RectifiedAveragePool2dGrad
from pytensor_convnet.rewriting.databases import register_fusing
from pytensor_convnet.rewriting.elementwise import biases_of, is_elementwise, is_sign, rectifies, uncast
from pytensor_convnet.rewriting.resolution import same


@register_fusing("numba", "cuda")
@node_rewriter([AveragePool2d])
def fuse_rectifier_and_average_pool(fgraph, node):
    """``AveragePool2d(maximum(images + biases, 0))`` and its gradients for both -> one Op each.

    The gradient for images is ``(images + biases >= 0) * AveragePool2dGrad(maps)``, its sum that for biases. Where it
    is muted there now is zero, not ``0 * g``, which would be NaN where ``g`` is infinite or NaN.
    """
    rectified, *windows = node.inputs
    biased = _argument_of_rectifier(rectified)
    if biased is None:
        return None
    signs = [client for client, _ in fgraph.clients[biased] if client is not rectified.owner]
    if not all(is_sign(sign, biased, rectified) for sign in signs):
        return None
    if any(client is not node and client not in signs for client, _ in fgraph.clients[rectified]):
        return None
    products = _products_with(fgraph, signs)
    if products is None:
        return None
    images, biases = _images_and_biases(biased)
    fused = RectifiedAveragePool2d(*node.op._props())
    pairs = {node.outputs[0]: fused.make_node(images, biases, *windows).outputs[0]}
    for product in products:
        found = _gradients(fgraph, product, products, signs, node, images, biases)
        if found is None:
            return None
        pairs |= found
    for old, new in pairs.items():
        copy_stack_trace(old, new)
    return pairs if all(old.type.is_super(new.type) for old, new in pairs.items()) else None


def _argument_of_rectifier(rectified: Variable) -> Variable | None:
    """The variable that was rectified, of the same shape and dtype."""
    node = rectified.owner
    inputs = [] if node is None else node.inputs
    return next((x for x in inputs if rectifies(node, x) and _alike(x, rectified)), None)


def _alike(a: Variable, b: Variable) -> bool:
    return (a.type.dtype, a.type.broadcastable) == (b.type.dtype, b.type.broadcastable)


def _images_and_biases(biased: Variable) -> tuple[Variable, Variable]:
    """Two variables whose sum is ``biased``, the second a number for each channel."""
    for images in [] if biased.owner is None else biased.owner.inputs:
        biases = biases_of(biased.owner, images)
        if biases is not None and images.type.dtype == biased.type.dtype:
            return images, biases
    return biased, pt.zeros(biased.shape[1], dtype=biased.type.dtype)


def _products_with(fgraph, signs: list[Apply]) -> list[Apply] | None:
    """The products that read these signs, perhaps cast; ``None`` if anything else does."""
    products: list[Apply] = []
    for sign in signs:
        readers = [client for client, _ in fgraph.clients[sign.outputs[0]]]
        for cast in [reader for reader in readers if is_elementwise(reader, Cast)]:
            readers += [client for client, _ in fgraph.clients[cast.outputs[0]]]
            readers.remove(cast)
        products += [reader for reader in readers if reader not in products]
    return products if all(is_elementwise(product, Mul) for product in products) else None


def _gradients(fgraph, product: Apply, products, signs, pool: Apply, images: Variable, biases: Variable):
    """What replaces one of the products with signs, and the sums of it that are gradients for biases.

    ``None`` unless its other factor is the gradient of the pool, which only such products read.
    """
    shown = [sign.outputs[0] for sign in signs]
    others = [x for x in product.inputs if uncast(x) not in shown]
    spread = next((x.owner for x in others if _is_gradient_of(x, pool)), None)
    if spread is None or len(others) != len(product.inputs) - 1 or not _alike(spread.outputs[0], images):
        return None
    if any(client not in products for client, _ in fgraph.clients[spread.outputs[0]]):
        return None
    maps, _, _, *windows = spread.inputs
    gradient = RectifiedAveragePool2dGrad(*pool.op._props())
    images_grad, biases_grad = gradient.make_node(images, biases, maps, *windows).outputs
    others.remove(spread.outputs[0])
    if others:
        return {product.outputs[0]: pt.mul(images_grad, *others)}
    sums = [client for client, _ in fgraph.clients[product.outputs[0]] if _is_sum_of_channels(client)]
    return {product.outputs[0]: images_grad} | {client.outputs[0]: biases_grad for client in sums}


def _is_gradient_of(x: Variable, pool: Apply) -> bool:
    """Whether ``x`` is the gradient of an average pool."""
    if x.owner is None or not isinstance(x.owner.op, AveragePool2dGrad) or x.owner.op._props() != pool.op._props():
        return False
    return all(same(a, b) for a, b in zip(x.owner.inputs[3:], pool.inputs[1:], strict=True))


def _is_sum_of_channels(node: Apply) -> bool:
    return isinstance(node.op, Sum) and node.op.axis == (0, 2, 3)
