"""PyTensor's matrix product and transpose, for compiled code to do without copies and without fresh memory.

Rewrites make them of finished graphs, so they have what PyTensor's have and no more; `lowering.numba` says how they
are computed.
"""

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor.math import Dot


class KeptDot(Dot):
    """A matrix product in memory that an earlier array left, where there is such.

    The gradient of a layer's weights is as large as these, often the largest array of a step. BLAS is done with it
    sooner than the system is with handing out its pages, which it takes back after the step.
    """


class OrderedTranspose(Op):
    """The transpose of a matrix, which compiled code knows to lie column by column if the matrix lies row by row.

    BLAS takes matrices in either order. Numba copies one of which it knows neither.
    """

    __props__ = ()
    view_map = {0: [0]}  # noqa: RUF012, as PyTensor has it

    def make_node(self, matrix):
        rows, columns = matrix.type.shape
        return Apply(self, [matrix], [matrix.type.clone(shape=(columns, rows))()])

    def infer_shape(self, *arguments):
        # PyTensor 3.0 passes (fgraph, node, shapes), later versions (node, shapes).
        [(rows, columns)] = arguments[-1]
        return [(columns, rows)]

    def perform(self, node, inputs, outputs):
        outputs[0][0] = inputs[0].T


kept_dot = KeptDot()
ordered_transpose = OrderedTranspose()
