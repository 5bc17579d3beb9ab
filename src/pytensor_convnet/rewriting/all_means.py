"""Means over processes are taken in one order, and as few at a time as the graph allows.

Every process must enter collectives in the same order, or all wait for ever (or add up what does not belong together).
Nodes that do not depend on one another could be scheduled in any order. Joined into one there is nothing to order; what
is left depends on one another, in a chain.
"""

from collections import defaultdict

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import GraphRewriter, copy_stack_trace

from pytensor_convnet.ops import AllMean
from pytensor_convnet.rewriting.databases import TAG


class JoinAllMeans(GraphRewriter):
    """``AllMean(x), AllMean(y)`` -> ``AllMean(x, y)``, unless y depends on AllMean(x) or x on AllMean(y)."""

    def apply(self, fgraph):
        for nodes in independent_all_means(fgraph):
            if len(nodes) == 1:
                continue
            tensors = list(dict.fromkeys(x for node in nodes for x in node.inputs))
            means = dict(zip(tensors, AllMean().make_node(*tensors).outputs))
            pairs = [(old, means[x]) for node in nodes for x, old in zip(node.inputs, node.outputs)]
            for old, new in pairs:
                copy_stack_trace(old, new)
            fgraph.replace_all(pairs, reason="join_all_means")


def independent_all_means(fgraph: FunctionGraph) -> list[list[Apply]]:
    """The `AllMean` nodes of a graph, by how many others the longest path into each passes."""
    passed: dict[Variable, int] = defaultdict(int)
    groups: dict[int, list[Apply]] = defaultdict(list)
    for node in fgraph.toposort():
        before = max((passed[x] for x in node.inputs), default=0)
        is_mean = isinstance(node.op, AllMean)
        if is_mean:
            groups[before].append(node)
        for output in node.outputs:
            passed[output] = before + is_mean
    return [groups[before] for before in sorted(groups)]


# In every mode, since it is no matter of speed alone; after 'uncanonicalize' at 3 and our last step at 40, which may
# remove nodes, and before Ops work in place, from 49.5 on.
optdb.register("join_all_means", JoinAllMeans(), "fast_run", "fast_compile", TAG, position=41)
