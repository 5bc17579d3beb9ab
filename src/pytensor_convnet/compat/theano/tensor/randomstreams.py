"""``theano.tensor.randomstreams``: the oldest place of `RandomStreams`."""

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.shared_randomstreams import RandomStreams

__all__ = ["RandomStreams"]
__getattr__, __dir__ = mirror(__name__)
