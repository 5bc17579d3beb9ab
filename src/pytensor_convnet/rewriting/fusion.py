"""Correlation and max pooling become one step: the full-resolution maps, and their gradient, are never written.

Three rewrites, each valid on its own. By now biases and activations sit on the pooled maps, so the maps between the
two Ops have no other reader; where something could not be moved, they have one, are needed in full, and stay.
"""

from pytensor.graph.basic import Constant, Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter

from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CorrelateMaxPool2d,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
    MaxPool2d,
    MaxPool2dMaxima,
)
from pytensor_convnet.rewriting.databases import register_fusing, replacements
from pytensor_convnet.rewriting.max_pool_grads import scatter_of


def pays(windows: list[Variable]) -> bool:
    """Whether one step is worth while for this window, stride and padding.

    It saves writing and reading the maps at full resolution, whatever the windows, as long as they are known when the
    function is compiled. Symbolic windows may be as large as the maps; a band of maps that fills such a window does not
    stay in cache, and then two steps are as good.
    """
    return all(isinstance(entry, Constant) for entry in windows)


@register_fusing("numba")
@node_rewriter([MaxPool2d, MaxPool2dMaxima])
def fuse_correlation_and_max_pool(fgraph, node):
    """``MaxPool2d(Correlate2d(images, filters))`` -> ``CorrelateMaxPool2d(images, filters)``."""
    maps, *windows = node.inputs
    if maps.owner is None or not isinstance(maps.owner.op, Correlate2d):
        return None
    if len(fgraph.clients[maps]) > 1 or not pays(windows):
        return None
    fused = CorrelateMaxPool2d(maps.owner.op, MaxPool2d(node.op.ignore_border))
    outputs = fused.make_node(*maps.owner.inputs, *windows).outputs[: len(node.outputs)]
    copy_stack_trace([maps, *node.outputs], outputs)
    return replacements(node, outputs)


@register_fusing("numba")
@node_rewriter([Correlate2dFilterGrad])
def fuse_filter_grad_and_max_pool_grad(fgraph, node):
    """``Correlate2dFilterGrad(images, MaxPool2dGrad(winners, maps))`` -> ``CorrelateMaxPool2dFilterGrad``."""
    return _fused_gradient(fgraph, node, CorrelateMaxPool2dFilterGrad)


@register_fusing("numba")
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
