"""``theano.scan_module.scan_views``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.compat.theano.scan_module")
