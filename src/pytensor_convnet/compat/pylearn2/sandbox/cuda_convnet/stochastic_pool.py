"""``pylearn2.sandbox.cuda_convnet.stochastic_pool``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.cuda_convnet")
