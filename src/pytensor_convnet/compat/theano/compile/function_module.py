"""``theano.compile.function_module``."""

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor.compile.executor", "pytensor.compile.maker")
