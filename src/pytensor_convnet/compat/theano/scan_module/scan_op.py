"""``theano.scan_module.scan_op``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.scan.op")
