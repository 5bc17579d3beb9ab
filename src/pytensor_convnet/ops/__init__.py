"""The symbolic Ops: what is computed. How is said in `lowering` and `kernels`."""

from pytensor_convnet.ops.all_mean import AllMean
from pytensor_convnet.ops.conv_pool import (
    CorrelateMaxPool2d,
    CorrelateMaxPool2dBiasGrad,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
)
from pytensor_convnet.ops.correlation import Correlate2d, Correlate2dFilterGrad, Correlate2dInputGrad
from pytensor_convnet.ops.cross_map_norm import CrossMapNorm, CrossMapNormGrad, CrossMapSum
from pytensor_convnet.ops.locally_connected import (
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
    LocallyConnected2dInputGrad,
)
from pytensor_convnet.ops.pooling import (
    AveragePool2d,
    AveragePool2dGrad,
    MaxPool2d,
    MaxPool2dGather,
    MaxPool2dGrad,
    MaxPool2dMaxima,
)
from pytensor_convnet.ops.rectified_pooling import RectifiedAveragePool2d, RectifiedAveragePool2dGrad
from pytensor_convnet.ops.stochastic_pooling import DrawWinners2d
from pytensor_convnet.ops.tanh_grad import TanhGrad

__all__ = [
    "AllMean",
    "AveragePool2d",
    "AveragePool2dGrad",
    "Correlate2d",
    "Correlate2dFilterGrad",
    "Correlate2dInputGrad",
    "CorrelateMaxPool2d",
    "CorrelateMaxPool2dBiasGrad",
    "CorrelateMaxPool2dFilterGrad",
    "CorrelateMaxPool2dInputGrad",
    "CrossMapNorm",
    "CrossMapNormGrad",
    "CrossMapSum",
    "DrawWinners2d",
    "LocallyConnected2d",
    "LocallyConnected2dFilterGrad",
    "LocallyConnected2dInputGrad",
    "MaxPool2d",
    "MaxPool2dGather",
    "MaxPool2dGrad",
    "MaxPool2dMaxima",
    "RectifiedAveragePool2d",
    "RectifiedAveragePool2dGrad",
    "TanhGrad",
]
