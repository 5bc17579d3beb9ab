"""``theano.sandbox.linalg.kron``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.compat.theano.sandbox.linalg")
