"""``theano.sandbox.cuda.blas``: correlation and pooling as objects."""

from typing import Any

from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.nnet.corr import CorrMM, CorrMM_gradInputs, CorrMM_gradWeights
from pytensor_convnet.compat.theano.tensor.signal.downsample import DownsampleFactorMax


def _border_mode(border_mode: Any, pad: Any) -> Any:
    """Padding under its older name, if that was given."""
    if pad in (0, (0, 0)):
        return border_mode
    if border_mode != "valid":
        raise ValueError(f"border_mode and pad are two names of one argument: got {border_mode!r} and {pad!r}")
    return pad


class GpuCorrMM(CorrMM):
    """The correlation (filters are not flipped): of images and filters.

    Parameters
    ----------
    border_mode, subsample
        As for `pytensor_convnet.conv2d`.
    pad : int, (int, int) or name
        The old name of ``border_mode``.
    filter_dilation, num_groups, unshared
        As for `pytensor_convnet.conv2d`.
    """

    def __init__(self, border_mode: Any = "valid", subsample: Any = (1, 1), pad: Any = (0, 0), **settings: Any):
        super().__init__(_border_mode(border_mode, pad), subsample, **settings)


class GpuCorrMM_gradInputs(CorrMM_gradInputs):
    """The gradient for the images: of filters, the output's gradient and the images' (rows, columns)."""

    def __init__(self, border_mode: Any = "valid", subsample: Any = (1, 1), pad: Any = (0, 0), **settings: Any):
        super().__init__(_border_mode(border_mode, pad), subsample, **settings)


class GpuCorrMM_gradWeights(CorrMM_gradWeights):
    """The gradient for the filters: of images, the output's gradient and the filters' (rows, columns)."""

    def __init__(self, border_mode: Any = "valid", subsample: Any = (1, 1), pad: Any = (0, 0), **settings: Any):
        super().__init__(_border_mode(border_mode, pad), subsample, **settings)

    def __call__(self, img: Any, topgrad: Any, shape: Any = None) -> Variable:
        if shape is None:
            if self.subsample not in (1, (1, 1)):
                raise ValueError("shape is missing: with a stride, filters of several sizes give the same output")
            if isinstance(self.border_mode, str) and self.border_mode != "valid":
                raise ValueError(f"shape is missing: needed with border_mode {self.border_mode!r}")
            pads = (0, 0) if self.border_mode == "valid" else self.border_mode
            rows, columns = (pads, pads) if isinstance(pads, int) else pads
            shape = (img.shape[2] + 2 * rows - topgrad.shape[2] + 1, img.shape[3] + 2 * columns - topgrad.shape[3] + 1)
        return super().__call__(img, topgrad, shape)


GpuDownsampleFactorMax = DownsampleFactorMax

__getattr__, __dir__ = mirror(__name__, missing={"GpuConv": "use theano.tensor.nnet.conv2d"})
