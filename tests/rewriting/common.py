"""What tests of rewrites share: compiling with and without one, and looking at what is left in a graph."""

import numpy as np
import pytensor
from pytensor.tensor.elemwise import Elemwise

from tests.ops.common import PYTHON

FUSIONS = ("fuse_correlation_and_max_pool", "fuse_filter_grad_and_max_pool_grad", "fuse_input_grad_and_max_pool_grad")
JOINING = ("fuse_bias_and_activation", "move_activation_before_reshape")
FUSING = PYTHON.including(*FUSIONS, *JOINING)
"""The Python linker, which runs every Op's ``perform``, with the rewrites that are meant for Numba."""


def compiled(inputs, outputs, *excluded, mode=PYTHON):
    """The function of these outputs, compiled without the rewrites of these names."""
    without_fusion = mode.excluding("elemwise_fusion", "inplace", *excluded)
    return pytensor.function(inputs, outputs, mode=without_fusion, on_unused_input="ignore")


def check(name, inputs, outputs, values, *, mode=PYTHON, tolerance=1e-10):
    """Outputs are equal with and without the rewrite, which changes the graph; returns both functions."""
    rewritten, plain = compiled(inputs, outputs, mode=mode), compiled(inputs, outputs, name, mode=mode)
    for ours, other in zip(rewritten(*values), plain(*values), strict=True):
        assert ours.dtype == other.dtype
        np.testing.assert_allclose(ours, other, rtol=tolerance, atol=tolerance)
    graphs = [pytensor.dprint(function, file="str") for function in (rewritten, plain)]
    assert graphs[0] != graphs[1], f"{name} changed nothing"
    return rewritten, plain


def operations(function):
    """The Ops of a compiled function, inputs first."""
    return [node.op for node in function.maker.fgraph.toposort()]


def count(function, op_type):
    return sum(isinstance(op, op_type) for op in operations(function))


def elementwise_rows(function):
    """The numbers of rows at which elementwise operations on bc01 tensors work."""
    nodes = function.maker.fgraph.toposort()
    outputs = [node.outputs[0] for node in nodes if isinstance(node.op, Elemwise) and node.outputs[0].type.ndim == 4]
    return {output.type.shape[2] for output in outputs} - {1}
