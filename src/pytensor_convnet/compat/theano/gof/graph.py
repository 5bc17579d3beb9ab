"""``theano.gof.graph``: walks through a graph."""

from collections.abc import Sequence
from typing import Any

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import ancestors, graph_inputs, io_toposort

from pytensor_convnet.compat.mirror import mirror

__all__ = ["Apply", "Constant", "Variable", "ancestors", "inputs", "io_toposort", "is_same_graph"]


def inputs(variable_list: Sequence[Variable], blockers: Any = None) -> list[Variable]:
    """The variables without an owner from which those of the list are computed."""
    return list(graph_inputs(variable_list, blockers))


def is_same_graph(var1: Variable, var2: Variable, givens: Any = None) -> bool:
    """Whether two variables are computed in the same way, after replacing what ``givens`` says."""
    from pytensor.graph.basic import equal_computations
    from pytensor.graph.replace import clone_replace

    if givens:
        var1, var2 = clone_replace([var1, var2], replace=givens)
    return equal_computations([var1], [var2])


__getattr__, __dir__ = mirror(__name__, "pytensor.graph.traversal", "pytensor.graph.basic")
