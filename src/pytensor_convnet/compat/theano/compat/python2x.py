"""``theano.compat.python2x``."""

from collections import Counter, OrderedDict

from pytensor_convnet.compat.mirror import mirror

__all__ = ["Counter", "OrderedDict"]
__getattr__, __dir__ = mirror(__name__)
