"""``theano.ifelse``: a condition of which only one branch is computed."""

from pytensor import ifelse

from pytensor_convnet.compat.mirror import mirror

__all__ = ["ifelse"]
__getattr__, __dir__ = mirror(__name__, "pytensor.conditional", "pytensor.ifelse")
