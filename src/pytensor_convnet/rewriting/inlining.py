"""Graphs that are one Op, as that of padding is, are taken apart where mode CUDA computes them.

Their nodes are then rewritten, hosted and computed as all others. PyTensor's own conversion to torch would compute them
as one function that nobody sees into, whose constants come from the host at each call: it cannot be captured.
"""

from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import optdb
from pytensor.graph.replace import clone_replace
from pytensor.graph.rewriting.basic import copy_stack_trace, dfs_rewriter, node_rewriter

from pytensor_convnet.rewriting.databases import TAG


@node_rewriter([OpFromGraph])
def inline_graphs(fgraph, node):
    """The outputs of an Op that is a graph, as those of the graph."""
    given = dict(zip(node.op.inner_inputs, node.inputs, strict=True))
    outputs = clone_replace(list(node.op.inner_outputs), replace=given)
    copy_stack_trace(node.outputs, outputs)
    return outputs


# Before the first merge and all else, beside PyTensor's own for graphs that ask for it.
optdb.register("inline_graphs", dfs_rewriter(inline_graphs, ignore_newtrees=False), "cuda", TAG, position=-0.01)
