"""``theano.sandbox.softsign``."""

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet.nnet import softsign

__all__ = ["softsign"]
__getattr__, __dir__ = mirror(__name__)
