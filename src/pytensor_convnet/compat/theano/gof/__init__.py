"""``theano.gof``: the graph itself. PyTensor calls it ``pytensor.graph``."""

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import GraphRewriter as Optimizer
from pytensor.graph.rewriting.basic import node_rewriter as local_optimizer
from pytensor.graph.type import Type
from pytensor.link.c.type import Generic, generic

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.gof import graph, op, opt, utils
from pytensor_convnet.compat.theano.gof.op import Op

__all__ = [
    "Apply",
    "Constant",
    "FunctionGraph",
    "Generic",
    "Op",
    "Optimizer",
    "Type",
    "Variable",
    "generic",
    "graph",
    "local_optimizer",
    "op",
    "opt",
    "utils",
]

__getattr__, __dir__ = mirror(
    __name__,
    "pytensor.graph",
    "pytensor.graph.basic",
    "pytensor.graph.op",
    "pytensor.graph.features",
    "pytensor.graph.rewriting.basic",
    "pytensor.graph.rewriting.db",
    "pytensor.link.basic",
    "pytensor.link.c.basic",
    "pytensor.link.c.op",
    "pytensor.link.vm",
)
