"""What tests of several kernels share."""

import numpy as np


def whole(shape, seed=0, most=2):
    """Small whole numbers, which every product multiplies and adds exactly; with many ties, negative ones too."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype("float32")
