"""``theano.sandbox.cuda.rng_curand``."""

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.sandbox.rng_mrg import MRG_RandomStreams

CURAND_RandomStreams = MRG_RandomStreams

__getattr__, __dir__ = mirror(__name__)
