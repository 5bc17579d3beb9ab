"""The flip of filters folds into the Op that reads or makes them.

``filters[:, :, ::-1, ::-1]`` turns filters by half a turn, as programs do to make a convolution of a correlation. The
Ops do it themselves as they load the filters: no copy, forward or backward.
"""

from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.scalar import as_scalar
from pytensor.tensor.subtensor import Subtensor, indices_from_subtensor

from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
    LocallyConnected2dInputGrad,
)
from pytensor_convnet.rewriting.databases import register_canonical, replacements
from pytensor_convnet.rewriting.resolution import constant_values

READERS = {Correlate2d: 1, LocallyConnected2d: 1, Correlate2dInputGrad: 0, LocallyConnected2dInputGrad: 0}
"""The Ops that read filters, and which input these are."""

MAKERS = (Correlate2dFilterGrad, LocallyConnected2dFilterGrad)


def is_half_turn(indices) -> bool:
    """Whether ``indices`` reverse the last two of four or six axes and take all of the others."""
    whole = all(isinstance(entry, slice) and entry == slice(None) for entry in indices[:-2])
    return len(indices) in (4, 6) and whole and all(map(_reverses, indices[-2:]))


def _reverses(index) -> bool:
    if not isinstance(index, slice) or index.start is not None or index.stop is not None or index.step is None:
        return False
    return constant_values(as_scalar(index.step)) == (-1, -1)


def _turned(node) -> Variable | None:
    """What a node turns by half a turn, if that is what it does."""
    if node is None or not isinstance(node.op, Subtensor):
        return None
    return node.inputs[0] if is_half_turn(indices_from_subtensor(node.inputs[1:], node.op.idx_list)) else None


def _other_flip(op):
    return type(op)(op.stride, op.padding, op.dilation, op.groups, not op.flip)


@register_canonical
@node_rewriter(list(READERS))
def fold_filter_flip(fgraph, node):
    """``Correlate2d(images, filters[:, :, ::-1, ::-1])`` -> ``Correlate2d{flip}(images, filters)``."""
    place = READERS[type(node.op)]
    filters = _turned(node.inputs[place].owner)
    if filters is None:
        return None
    inputs = [filters if i == place else x for i, x in enumerate(node.inputs)]
    output = _other_flip(node.op).make_node(*inputs).outputs[0]
    copy_stack_trace(node.outputs, output)
    return replacements(node, [output])


@register_canonical
@node_rewriter([Subtensor])
def fold_flip_of_filter_grad(fgraph, node):
    """``Correlate2dFilterGrad(...)[:, :, ::-1, ::-1]`` -> ``Correlate2dFilterGrad{flip}(...)``.

    Differentiation writes ``zeros[:, :, ::-1, ::-1].inc(Correlate2dFilterGrad(...))``; PyTensor makes this of it.
    """
    gradient = _turned(node)
    if gradient is None or gradient.owner is None or not isinstance(gradient.owner.op, MAKERS):
        return None
    output = _other_flip(gradient.owner.op).make_node(*gradient.owner.inputs).outputs[0]
    copy_stack_trace(node.outputs, output)
    return replacements(node, [output])
