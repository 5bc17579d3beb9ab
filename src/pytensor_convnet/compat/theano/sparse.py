"""``theano.sparse``."""

from pytensor.sparse.type import SparseTensorType as SparseType

from pytensor_convnet.compat.mirror import mirror

__all__ = ["SparseType"]
__getattr__, __dir__ = mirror(__name__, "pytensor.sparse", "pytensor.sparse.basic", "pytensor.sparse.type")
