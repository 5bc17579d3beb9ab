"""``theano.tensor.signal``: convolution and pooling of images without channels."""

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.signal import conv, downsample, pool

__all__ = ["conv", "downsample", "pool"]
__getattr__, __dir__ = mirror(__name__, "pytensor.tensor.signal")
