"""``theano.scalar.basic``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.scalar", "pytensor.scalar.basic", "pytensor.scalar.math")
