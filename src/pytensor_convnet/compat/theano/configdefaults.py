"""``theano.configdefaults``."""

from pytensor_convnet.compat.configuration import config
from pytensor_convnet.compat.mirror import mirror

__all__ = ["config"]
__getattr__, __dir__ = mirror(__name__, "pytensor.configdefaults")
