"""Correlation and max pooling become one step: the full-resolution maps, and their gradient, are never written.

Each rewrite is valid on its own. By now biases and activations sit on the pooled maps, so the maps between the
two Ops have no other reader; where something could not be moved, they have one, are needed in full, and stay. What
sits there then joins the step. A rectifier's gradient reads the maxima before it, to tell zero from less than zero; in
mode CUDA the winners tell it that.
"""

from math import prod

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar.basic import NEQ, Mul, Tanh
from pytensor.tensor.basic import get_underlying_scalar_constant_value
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import Sum
from pytensor.tensor.shape import Reshape

from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CorrelateMaxPool2d,
    CorrelateMaxPool2dBiasGrad,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
    MaxPool2d,
    MaxPool2dMaxima,
)
from pytensor_convnet.ops.base import FLOATS
from pytensor_convnet.ops.conv_pool import NO_TAP, CorrelateMaxPool2dGrad
from pytensor_convnet.rewriting.databases import register_fusing, replacements
from pytensor_convnet.rewriting.elementwise import biases_of, is_elementwise, is_sign, is_zero, rectifies, uncast
from pytensor_convnet.rewriting.max_pool_grads import scatter_of


def pays(windows: list[Variable]) -> bool:
    """Whether one step is worth while for this window, stride and padding.

    It saves writing and reading the maps at full resolution, whatever the windows, as long as they are known when the
    function is compiled. Symbolic windows may be as large as the maps; a band of maps that fills such a window does not
    stay in cache, and then two steps are as good.
    """
    return all(isinstance(entry, Constant) for entry in windows)


@register_fusing("numba", "cuda")
@node_rewriter([MaxPool2d, MaxPool2dMaxima])
def fuse_correlation_and_max_pool(fgraph, node):
    """``MaxPool2d(Correlate2d(images, filters))`` -> ``CorrelateMaxPool2d(images, filters, 0)``."""
    maps, *windows = node.inputs
    if maps.owner is None or not isinstance(maps.owner.op, Correlate2d):
        return None
    if len(fgraph.clients[maps]) > 1 or not pays(windows):
        return None
    fused = CorrelateMaxPool2d(maps.owner.op, MaxPool2d(node.op.ignore_border))
    images, filters = maps.owner.inputs
    biases = pt.zeros(filters.shape[0], dtype=maps.type.dtype)
    outputs = fused.make_node(images, filters, biases, *windows).outputs[: len(node.outputs)]
    copy_stack_trace([maps, *node.outputs], outputs)
    return replacements(node, outputs)


@register_fusing("numba", "cuda")
@node_rewriter([Elemwise])
def move_activation_before_reshape(fgraph, node):
    """``f(maxima.reshape(shape))`` -> ``f(maxima).reshape(shape)``: the inverse of what PyTensor does elsewhere.

    The gradient has the function of the maxima in their own shape already, so it would be computed twice.
    """
    reshape = node.inputs[0].owner
    if len(node.inputs) > 1 or reshape is None or not isinstance(reshape.op, Reshape):
        return None
    maxima = reshape.inputs[0]
    if _fused(maxima) is None or _activation_of(node, maxima, []) is None:
        return None
    alike = (client for client, _ in fgraph.clients[maxima] if client.op == node.op)
    activated = next((client.outputs[0] for client in alike), None)
    reshaped = reshape.op(node.op(maxima) if activated is None else activated, *reshape.inputs[1:])
    copy_stack_trace(node.outputs, reshaped)
    return replacements(node, [reshaped])


@register_fusing("numba", "cuda")
@node_rewriter([Elemwise])
def fuse_bias_and_activation(fgraph, node):
    """``CorrelateMaxPool2d(images, filters, 0) + biases``, and a function of that, -> one ``CorrelateMaxPool2d``."""
    for maxima in node.inputs:
        fused = _fused(maxima)
        if fused is None or len(fgraph.clients[maxima]) > 1 or len(node.outputs) > 1:
            continue
        others = [x for x in node.inputs if x is not maxima]
        activation, added = _activation_of(node, maxima, others), biases_of(node, maxima)
        if fused.op.activation != "identity" or activation is added is None:
            continue
        images, filters, biases, *windows = fused.inputs
        if added is not None:
            biases = added if is_zero(biases) else biases + added
        op = CorrelateMaxPool2d(fused.op.correlation, fused.op.pooling, activation or "identity")
        new = op.make_node(images, filters, biases, *windows).outputs
        copy_stack_trace(node.outputs, new)
        pairs = {node.outputs[0]: new[0], fused.outputs[1]: new[1]}
        return pairs if all(old.type.is_super(variable.type) for old, variable in pairs.items()) else None
    return None


@register_fusing("cuda")
@node_rewriter([Elemwise])
def fuse_rectifier_by_muting_winners(fgraph, node):
    """``maximum(maxima, 0)`` and its gradient, ``(maxima >= 0) * g``, -> one ``CorrelateMaxPool2d``, winners muted.

    The product, which the gradients of filters and images scatter, loses that factor; what else reads the factor, the
    gradient of biases for one, gets it from the winners. Where maxima are negative nothing is scattered, not ``0 * g``,
    which would be NaN where ``g`` is infinite or NaN.
    """
    maxima = next((x for x in node.inputs if _fused(x) is not None), None)
    if maxima is None or _activation_of(node, maxima, [x for x in node.inputs if x is not maxima]) != "relu":
        return None
    fused = _fused(maxima)
    winners = fused.outputs[1]
    signs = [client for client, _ in fgraph.clients[maxima] if client is not node]
    if fused.op.activation != "identity" or not all(is_sign(sign, maxima, node.outputs[0]) for sign in signs):
        return None
    if winners.type.dtype == "uint8" and prod(fused.inputs[3].data) > 255:  # each byte numbers a tap
        return None
    factors = [sign.outputs[0] for sign in signs]
    scatters = [client for client, _ in fgraph.clients[winners]]
    found = [_without(scatter, winners, factors) for scatter in scatters]
    rests = [rest for rest in found if rest is not None]
    if not signs or len(rests) < len(scatters):
        return None
    op = CorrelateMaxPool2d(fused.op.correlation, fused.op.pooling, "muting_relu")
    rectified, muting = op.make_node(*fused.inputs).outputs
    copy_stack_trace(node.outputs, rectified)
    shown = pt.neq(muting, np.full((1,) * 4, NO_TAP).astype(winners.type.dtype))
    pairs = {node.outputs[0]: rectified} | {factor: pt.cast(shown, factor.type.dtype) for factor in factors}
    for scatter, rest in zip(scatters, rests):
        tensor, _, maps, *integers = scatter.inputs
        others = [rectified if x is node.outputs[0] else x for x in rest]
        product = pt.mul(*others) if len(others) > 1 else others[0]
        if (product.type.dtype, product.type.broadcastable) != (maps.type.dtype, maps.type.broadcastable):
            return None
        pairs[scatter.outputs[0]] = scatter.op.make_node(tensor, muting, product, *integers).outputs[0]
        copy_stack_trace(scatter.outputs, pairs[scatter.outputs[0]])
    return pairs if all(old.type.is_super(variable.type) for old, variable in pairs.items()) else None


@register_fusing("cuda")
@node_rewriter([Sum])
def fuse_bias_grad_and_muted_winners(fgraph, node):
    """``((winners != no tap) * maps).sum(axis=(0, 2, 3))`` -> ``CorrelateMaxPool2dBiasGrad(winners, maps)``."""
    product = node.inputs[0].owner
    if node.op.axis != (0, 2, 3) or product is None or not is_elementwise(product, Mul):
        return None
    found = {x: winners for x in product.inputs if (winners := _muting_winners_of(uncast(x))) is not None}
    if not found:
        return None
    shown, winners = next(iter(found.items()))
    others = [x for x in product.inputs if x is not shown]
    maps = pt.mul(*others) if len(others) > 1 else next(iter(others), shown)
    if maps.type.dtype not in FLOATS or maps.type.broadcastable != winners.type.broadcastable:
        return None
    biases = CorrelateMaxPool2dBiasGrad()(winners, maps)
    copy_stack_trace(node.outputs, biases)
    return replacements(node, [biases])


def _muting_winners_of(shown: Variable) -> Variable | None:
    """The winners that ``shown`` compares with `NO_TAP`, those of a muting step."""
    node = shown.owner
    if node is None or not is_elementwise(node, NEQ):
        return None
    winners, other = node.inputs
    step = winners.owner
    mutes = step is not None and isinstance(step.op, CorrelateMaxPool2d) and step.op.activation == "muting_relu"
    if not mutes or winners is not step.outputs[1]:
        return None
    value = get_underlying_scalar_constant_value(other, raise_not_constant=False)
    no_tap = np.array(NO_TAP).astype(winners.type.dtype)
    return winners if not isinstance(value, Variable) and value == no_tap else None


def _without(scatter, winners: Variable, factors: list[Variable]) -> list[Variable] | None:
    """What else the maps that a gradient scatters are a product of; ``None`` if not of one of these factors."""
    if not isinstance(scatter.op, CorrelateMaxPool2dGrad) or scatter.inputs[1] is not winners:
        return None
    maps = scatter.inputs[2]
    if maps.owner is None or not is_elementwise(maps.owner, Mul):
        return None
    rest = [x for x in maps.owner.inputs if uncast(x) not in factors]
    return rest if 0 < len(rest) < len(maps.owner.inputs) else None


def _fused(x: Variable):
    """The node of a fused step whose maxima ``x`` is."""
    node = x.owner
    return node if node is not None and isinstance(node.op, CorrelateMaxPool2d) and x is node.outputs[0] else None


def _activation_of(node, maxima: Variable, others: list[Variable]) -> str | None:
    """The activation that an elementwise node applies to maxima, as our kernels know it."""
    function = node.op.scalar_op
    if isinstance(function, Tanh) and not others and maxima.type.dtype == "float32":
        return "tanh"
    return "relu" if rectifies(node, maxima) else None


@register_fusing("numba", "cuda")
@node_rewriter([Correlate2dFilterGrad])
def fuse_filter_grad_and_max_pool_grad(fgraph, node):
    """``Correlate2dFilterGrad(images, MaxPool2dGrad(winners, maps))`` -> ``CorrelateMaxPool2dFilterGrad``."""
    return _fused_gradient(fgraph, node, CorrelateMaxPool2dFilterGrad)


@register_fusing("numba", "cuda")
@node_rewriter([Correlate2dInputGrad])
def fuse_input_grad_and_max_pool_grad(fgraph, node):
    """``Correlate2dInputGrad(filters, MaxPool2dGrad(winners, maps))`` -> ``CorrelateMaxPool2dInputGrad``."""
    return _fused_gradient(fgraph, node, CorrelateMaxPool2dInputGrad)


def _fused_gradient(fgraph, node, op_type):
    tensor, maps, rows, columns = node.inputs
    scatter = scatter_of(maps)
    if scatter is None or not _only_correlations_read(fgraph, maps) or not pays(scatter.inputs[4:]):
        return None
    fused = op_type(node.op.partner("forward"))
    output = fused.make_node(tensor, *scatter.inputs[:2], rows, columns, *scatter.inputs[2:]).outputs[0]
    copy_stack_trace([maps, *node.outputs], output)
    return replacements(node, [output])


def _only_correlations_read(fgraph, maps: Variable) -> bool:
    """Whether every reader of scattered maps can scatter them itself; else they are written anyway."""
    gradients = Correlate2dFilterGrad | Correlate2dInputGrad
    return all(isinstance(client.op, gradients) and place == 1 for client, place in fgraph.clients[maps])
