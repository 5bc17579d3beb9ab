"""``theano.gof.link``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.link.basic", "pytensor.link.utils")
