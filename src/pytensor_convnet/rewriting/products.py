"""Matrix products of the layers after maps copy no factor, and are written to memory that is there already."""

from pytensor.graph.basic import Variable
from pytensor.graph.rewriting.basic import copy_stack_trace, node_rewriter
from pytensor.tensor.math import Dot

from pytensor_convnet.ops.base import FLOATS
from pytensor_convnet.ops.products import KeptDot, kept_dot, ordered_transpose
from pytensor_convnet.rewriting.activations import of_maps
from pytensor_convnet.rewriting.databases import register_fusing, replacements
from pytensor_convnet.rewriting.layouts import permutation


@register_fusing("numba")
@node_rewriter([Dot])
def keep_memory_of_dot(fgraph, node):
    """``Dot(x, y)`` -> ``KeptDot(x, y)``, for floats that one of our Ops had a part in."""
    [product] = node.outputs
    dtypes = {variable.type.dtype for variable in (*node.inputs, product)}
    if isinstance(node.op, KeptDot) or len(dtypes) > 1 or not dtypes.issubset(FLOATS) or not of_maps(product):
        return None
    kept = kept_dot(*node.inputs)
    copy_stack_trace(product, kept)
    return replacements(node, [kept])


@register_fusing("numba")
@node_rewriter([Dot])
def order_transposes(fgraph, node):
    """``Dot(x, y.T)`` -> ``Dot(x, OrderedTranspose(y))``, if one of our Ops had a part in it; likewise for ``x``."""
    [product] = node.outputs
    factors = [_ordered(factor) for factor in node.inputs]
    if factors == node.inputs or not of_maps(product):
        return None
    new = node.op(*factors)
    copy_stack_trace(product, new)
    return replacements(node, [new])


def _ordered(matrix: Variable) -> Variable:
    """The transpose that ``matrix`` is, in a known order; ``matrix`` itself if it is none."""
    return ordered_transpose(matrix.owner.inputs[0]) if permutation(matrix.owner) == (1, 0) else matrix
