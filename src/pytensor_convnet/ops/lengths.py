"""Arithmetic with lengths of axes, for backends that compile functions for shapes which they know by then.

Rewrites make these Ops of PyTensor's. Where lengths are plain numbers while a function is compiled, so are results.
"""

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor.basic import MakeVector
from pytensor.tensor.elemwise import Elemwise


class KnownLength(Op):
    """What ``Elemwise(scalar_op)`` computes of single integers."""

    __props__ = ("scalar_op",)

    def __init__(self, scalar_op):
        self.scalar_op = scalar_op

    def make_node(self, *lengths):
        node = Elemwise(self.scalar_op).make_node(*lengths)
        return Apply(self, node.inputs, [node.outputs[0].type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = node.outputs[0].type.filter(self.scalar_op.impl(*inputs), allow_downcast=True)


class KnownLengths(Op):
    """Several integers as a vector."""

    __props__ = ()

    def make_node(self, *lengths):
        node = MakeVector("int64").make_node(*lengths)
        return Apply(self, node.inputs, [node.outputs[0].type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = node.outputs[0].type.filter([int(length) for length in inputs])
