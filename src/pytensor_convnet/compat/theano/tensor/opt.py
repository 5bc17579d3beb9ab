"""``theano.tensor.opt``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(
    __name__,
    "pytensor.tensor.rewriting.basic",
    "pytensor.tensor.rewriting.math",
    "pytensor.tensor.rewriting.elemwise",
    "pytensor.tensor.rewriting.shape",
    "pytensor.tensor.rewriting.subtensor",
    "pytensor.raise_op",
)
