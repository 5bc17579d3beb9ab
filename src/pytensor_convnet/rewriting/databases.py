"""When our rewrites run.

Canonicalization takes away the flips. The functions around max pools are moved when graphs have reached their
stable and specialized forms, since then each function has only one form left (``log(1 + exp(x))`` is a softplus). The
last step, which makes Ops that no other rewrite knows, follows everything that may still simplify a graph and
comes before elementwise fusion.
"""

from collections.abc import Callable

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import GraphRewriter, MergeOptimizer, NodeRewriter, copy_stack_trace
from pytensor.graph.rewriting.db import EquilibriumDB

from pytensor_convnet.ops.base import ConvnetOp

TAG = "convnet"
"""The tag that all our rewrites bear."""

_MOVING, _FUSING, _LAST = (EquilibriumDB(ignore_newtrees=False) for _ in range(3))

# As in canonicalization, equal nodes merge after each step, lest the same function be computed twice.
_MOVING.register("merge", MergeOptimizer(), "fast_run", cleanup=True)

# Between 'specialize' at 2 and 'uncanonicalize' at 3; between that and 'add_mul_fusion' at 48.
optdb.register("convnet_moving", _MOVING, "fast_run", position=2.5)
optdb.register("convnet_fusing", _FUSING, "fast_run", position=40)
optdb.register("convnet_last", _LAST, "fast_run", position=41)


def register_canonical(rewriter: NodeRewriter) -> NodeRewriter:
    """Let ``rewriter`` run with PyTensor's canonicalization."""
    optdb["canonicalize"].register(rewriter.__name__, rewriter, "fast_run", TAG)
    return rewriter


def register_moving(rewriter: NodeRewriter) -> NodeRewriter:
    """Let ``rewriter`` run when graphs have their specialized forms."""
    _MOVING.register(rewriter.__name__, rewriter, "fast_run", TAG)
    return rewriter


def register_fusing(*tags: str):
    """Let a rewriter run last; ``tags`` are the backends that have kernels for what it makes."""
    return _registering(_FUSING, tags)


def register_last(*tags: str):
    """Let a rewriter take what those have left that `register_fusing` registered."""
    return _registering(_LAST, tags)


def _registering(database: EquilibriumDB, tags: tuple[str, ...]):
    def decorator(rewriter: NodeRewriter) -> NodeRewriter:
        database.register(rewriter.__name__, rewriter, *tags, TAG)
        return rewriter

    return decorator


Replaced = Callable[[FunctionGraph, Apply], Variable | None]
"""The output of a node by another that is to take its place; None if it is to stay."""


class _InOurGraphs(GraphRewriter):
    """Replaces outputs of nodes, first to last, in graphs that hold one of our Ops."""

    def __init__(self, replaced: Replaced) -> None:
        super().__init__()
        self._replaced = replaced

    def apply(self, fgraph):
        nodes = fgraph.toposort()
        if not any(isinstance(node.op, ConvnetOp) for node in nodes):
            return
        for node in nodes:
            new = self._replaced(fgraph, node)
            if new is not None:
                copy_stack_trace(node.outputs[0], new)
                fgraph.replace(node.outputs[0], new, reason=self._replaced.__name__)


def register_in_our_graphs(*tags: str):
    """Let a function replace what PyTensor's own Ops give, after all these; ``tags`` are the backends that need it."""

    def decorator(replaced: Replaced) -> Replaced:
        # Before elementwise fusion, from 48 on.
        optdb.register(replaced.__name__, _InOurGraphs(replaced), *tags, TAG, position=42)
        return replaced

    return decorator


def replacements(node: Apply, new: list[Variable]) -> dict[Variable, Variable] | None:
    """The outputs of ``node`` replaced by ``new``; ``None`` if static types have lost what the old ones knew."""
    pairs = dict(zip(node.outputs, new, strict=True))
    return pairs if all(old.type.is_super(variable.type) for old, variable in pairs.items()) else None
