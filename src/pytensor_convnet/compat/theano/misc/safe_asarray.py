"""``theano.misc.safe_asarray``, known as ``theano._asarray``."""

from typing import Any

import numpy as np

from pytensor_convnet.compat.configuration import config


def _asarray(a: Any, dtype: Any, order: Any = None) -> np.ndarray:
    """``numpy.asarray``, for which ``dtype`` may also be 'floatX'."""
    return np.asarray(a, dtype=config.floatX if isinstance(dtype, str) and dtype == "floatX" else dtype, order=order)
