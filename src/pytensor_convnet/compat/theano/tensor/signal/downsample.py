"""``theano.tensor.signal.downsample``: pooling under its oldest names."""

import warnings
from typing import Any

from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor.signal.pool import _BORDER_WARNING, Pool, max_pool_2d_same_size

__all__ = ["DownsampleFactorMax", "max_pool_2d", "max_pool_2d_same_size", "pool_2d"]


def max_pool_2d(
    input: Any,
    ds: Any,
    ignore_border: bool | None = None,
    st: Any = None,
    padding: Any = (0, 0),
    mode: str = "max",
) -> Variable:
    """`pytensor_convnet.max_pool_2d`, and Theano's warning.

    Parameters
    ----------
    input, ds, ignore_border, st, padding, mode
        As for `pytensor_convnet.max_pool_2d`.

    Returns
    -------
    tensor of shape (..., output rows, output columns)
    """
    if ignore_border is None:
        warnings.warn(_BORDER_WARNING.format(function="max_pool_2d"), stacklevel=2)
    return ours.max_pool_2d(input, ds, bool(ignore_border), st, padding, mode)


pool_2d = max_pool_2d


class DownsampleFactorMax(Pool):
    """Pooling as an object that knows its window.

    Parameters
    ----------
    ds, ignore_border, st, padding, mode
        As for `pytensor_convnet.max_pool_2d`.
    """

    def __init__(self, ds: Any, ignore_border: bool = False, st: Any = None, padding: Any = (0, 0), mode: str = "max"):
        super().__init__(ignore_border, mode)
        self.ds, self.st, self.padding = ds, st, padding

    def __call__(self, x: Any) -> Variable:  # type: ignore[override]
        return super().__call__(x, self.ds, self.st, self.padding)


__getattr__, __dir__ = mirror(__name__)
