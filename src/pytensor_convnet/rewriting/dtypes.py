"""Numbers have the dtypes that PyTensor says they have, in its JAX backend too.

PyTensor adds float32 numbers up in float64 and gives the sum back in float32. Its JAX backend adds them up in float32
and gives it back in float64: parameters would be float64 from their first update on, and all that is made of them. In
PyTensor 3.0 it also counts rows, as costs do that pick a probability for each image, in the one byte of the constants 0
and 1, and fails for more than 127.
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.tensor.basic import ARange
from pytensor.tensor.math import Sum

from pytensor_convnet.ops.base import FLOATS
from pytensor_convnet.rewriting.databases import register_in_our_graphs


@register_in_our_graphs("jax", "mlx")
def keep_dtypes(fgraph: FunctionGraph, node: Apply) -> Variable | None:
    """Sums are accumulated in their own dtype, and ranges counted in theirs."""
    op = node.op
    if isinstance(op, Sum) and node.outputs[0].type.dtype in FLOATS and op.acc_dtype != node.outputs[0].type.dtype:
        return Sum(op.axis, dtype=node.outputs[0].type.dtype, acc_dtype=node.outputs[0].type.dtype)(*node.inputs)
    if isinstance(op, ARange) and any(isinstance(x, Constant) and x.type.dtype != op.dtype for x in node.inputs):
        numbers = [pt.constant(np.asarray(x.data, op.dtype)) if isinstance(x, Constant) else x for x in node.inputs]
        return op(*numbers)
    return None
