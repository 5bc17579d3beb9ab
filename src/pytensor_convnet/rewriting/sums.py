"""Sums keep the dtype that PyTensor says they have.

PyTensor adds float32 numbers up in float64 and gives the sum back in float32. Its JAX backend adds them up in float32
and gives it back in float64, so that parameters become float64 by their first update, and all later steps with them.
"""

from pytensor.compile.mode import optdb
from pytensor.graph.rewriting.basic import GraphRewriter, copy_stack_trace
from pytensor.tensor.math import Sum

from pytensor_convnet.ops.base import FLOATS, ConvnetOp
from pytensor_convnet.rewriting.databases import TAG


class KeepSumsNarrow(GraphRewriter):
    """``Sum{acc=float64}(x)`` -> ``Sum{acc=float32}(x)`` for a float32 sum, in graphs that hold one of our Ops."""

    def apply(self, fgraph):
        nodes = fgraph.toposort()
        if not any(isinstance(node.op, ConvnetOp) for node in nodes):
            return
        for node in nodes:
            [old], op = node.outputs[:1], node.op
            if not isinstance(op, Sum) or old.type.dtype not in FLOATS or op.acc_dtype == old.type.dtype:
                continue
            new = Sum(axis=op.axis, dtype=old.type.dtype, acc_dtype=old.type.dtype)(node.inputs[0])
            copy_stack_trace(old, new)
            fgraph.replace(old, new, reason="keep_sums_narrow")


# After our last step at 41; before elementwise fusion, from 48 on.
optdb.register("keep_sums_narrow", KeepSumsNarrow(), "jax", TAG, position=42)
