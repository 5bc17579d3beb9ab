"""``pylearn2.sandbox.cuda_convnet.response_norm``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.cuda_convnet")
