"""``pylearn2``: of this library, its wrappers of cuda-convnet."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__)
