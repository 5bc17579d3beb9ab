"""``theano.gof.type``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.graph.type", "pytensor.link.c.type")
