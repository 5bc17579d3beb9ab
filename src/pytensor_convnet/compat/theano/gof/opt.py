"""``theano.gof.opt``: rewrites of graphs."""

from pytensor.graph.rewriting.basic import GraphRewriter as Optimizer
from pytensor.graph.rewriting.basic import NodeRewriter as LocalOptimizer
from pytensor.graph.rewriting.basic import PatternNodeRewriter as PatternSub
from pytensor.graph.rewriting.basic import node_rewriter as local_optimizer

from pytensor_convnet.compat.mirror import mirror

__all__ = ["LocalOptimizer", "Optimizer", "PatternSub", "local_optimizer"]
__getattr__, __dir__ = mirror(__name__, "pytensor.graph.rewriting.basic", "pytensor.graph.rewriting.db")
