"""cuda-convnet's operators under their own names, in its layout c01b: (channels, rows, columns, batch).

For programs written for pylearn2's wrappers of A. Krizhevsky's cuda-convnet, and for whoever likes the layout. There
is one convolution in this package; the operators here look at the same memory through other strides.

>>> from pytensor_convnet.cuda_convnet import FilterActs, MaxPool
"""

from pytensor_convnet.cuda_convnet.acts import FilterActs, ImageActs, WeightActs
from pytensor_convnet.cuda_convnet.errors import speak_c01b
from pytensor_convnet.cuda_convnet.layouts import gpu_contiguous
from pytensor_convnet.cuda_convnet.local_acts import LocalFilterActs, LocalImageActs, LocalWeightActs
from pytensor_convnet.cuda_convnet.pooling import MaxPool, MaxPoolGrad, MaxPoolRop, max_pool_c01b
from pytensor_convnet.cuda_convnet.probabilistic_pooling import ProbMaxPool, prob_max_pool_c01b
from pytensor_convnet.cuda_convnet.response_norm import CrossMapNorm, CrossMapNormUndo
from pytensor_convnet.cuda_convnet.stochastic_pooling import (
    StochasticMaxPool,
    WeightedMaxPool,
    stochastic_max_pool_c01b,
    weighted_max_pool_c01b,
)

__all__ = [
    "CrossMapNorm",
    "CrossMapNormUndo",
    "FilterActs",
    "ImageActs",
    "LocalFilterActs",
    "LocalImageActs",
    "LocalWeightActs",
    "MaxPool",
    "MaxPoolGrad",
    "MaxPoolRop",
    "ProbMaxPool",
    "StochasticMaxPool",
    "WeightActs",
    "WeightedMaxPool",
    "gpu_contiguous",
    "max_pool_c01b",
    "prob_max_pool_c01b",
    "stochastic_max_pool_c01b",
    "weighted_max_pool_c01b",
]

speak_c01b()
