"""Winners that nobody reads are not computed: max pooling outside a gradient keeps only the maxima."""

from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter

from pytensor_convnet.ops import MaxPool2d, MaxPool2dMaxima
from pytensor_convnet.rewriting.databases import register_fusing, replacements


@register_fusing("fast_run")
@node_rewriter([MaxPool2d])
def drop_unread_winners(fgraph, node):
    """``MaxPool2d(images)`` whose winners have no reader -> ``MaxPool2dMaxima(images)``."""
    if fgraph.clients[node.outputs[1]]:
        return None
    maxima = MaxPool2dMaxima(node.op.ignore_border).make_node(*node.inputs).outputs[0]
    copy_stack_trace(node.outputs[0], maxima)
    pair = replacements(node, [maxima, node.outputs[1]])
    return None if pair is None else {node.outputs[0]: maxima}
