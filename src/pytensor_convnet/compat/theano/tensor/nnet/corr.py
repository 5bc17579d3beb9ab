"""``theano.tensor.nnet.corr``: correlations as objects, which Theano computed as products of matrices."""

from typing import Any

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet.abstract_conv import (
    AbstractConv2d,
    AbstractConv2d_gradInputs,
    AbstractConv2d_gradWeights,
)


class _WithoutFlip:
    """What the three Ops share: their arguments, and that filters are not flipped.

    Parameters
    ----------
    border_mode, subsample, filter_dilation, num_groups, unshared
        As for `pytensor_convnet.conv2d`.
    """

    def __init__(
        self,
        border_mode: Any = "valid",
        subsample: Any = (1, 1),
        filter_dilation: Any = (1, 1),
        num_groups: int = 1,
        unshared: bool = False,
    ):
        settings = border_mode, subsample, False, filter_dilation, num_groups, unshared
        super().__init__(None, None, *settings)  # type: ignore[call-arg]


class CorrMM(_WithoutFlip, AbstractConv2d):
    """The correlation: of images and filters."""


class CorrMM_gradInputs(_WithoutFlip, AbstractConv2d_gradInputs):
    """The gradient for the images: of filters, the output's gradient and the images' (rows, columns)."""


class CorrMM_gradWeights(_WithoutFlip, AbstractConv2d_gradWeights):
    """The gradient for the filters: of images, the output's gradient and the filters' (rows, columns)."""


__getattr__, __dir__ = mirror(__name__)
