"""``theano.misc.pkl_utils``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.misc.pkl_utils")
