"""``theano.gof.optdb``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.graph.rewriting.db")
