"""What tests of several kernels share."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from pytensor_convnet import geometry as rules
from pytensor_convnet.kernels.cuda.gathering import Geometry


def whole(shape, seed=0, most=2):
    """Small whole numbers, which every product multiplies and adds exactly; with many ties, negative ones too."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype("float32")


def addresses(given):
    """Where the tensors among these lie in memory."""
    return {each.data_ptr() for each in given if hasattr(each, "data_ptr")}


@st.composite
def pooled_layers(draw, batches, most_shared=3, most_filters=24, most_pixels=9):
    """A correlation of few pixels; window, stride, padding of a pool of its maps, and whether it ignores borders.

    Parameters
    ----------
    batches : strategy
    most_shared : int
        Columns that a window has in common with the next.
    most_filters, most_pixels : int
        The latter of a row and of a column.
    """
    axes = []
    for axis in ("row", "column"):
        length, padding = (
            draw(st.integers(1, most_pixels), f"{axis}s"),
            draw(st.tuples(*[st.integers(0, 2)] * 2), "padding"),
        )
        taps, stride = draw(st.integers(1, min(5, length + sum(padding))), "taps"), draw(st.integers(1, 3), "stride")
        window = draw(st.integers(1, 4), "window")
        step = draw(st.integers(max(1, window - most_shared) if axis == "column" else 1, 4), "step")
        axes.append((length, taps, stride, padding, window, step, draw(st.tuples(*[st.integers(0, window - 1)] * 2))))
    lengths, taps, stride, padding, *pool = zip(*axes)
    images = draw(batches, "batch"), draw(st.integers(1, 4), "channels"), *lengths
    filters = draw(st.integers(1, most_filters), "filters"), images[1], *taps
    geometry = Geometry(images, filters, stride, padding, (1, 1), 1, draw(st.booleans(), "flip"))
    ignore_border = draw(st.booleans(), "ignore_border")
    assume(rules.pool_problem(geometry.maps, *pool, ignore_border) is None)
    return geometry, (*pool, ignore_border)
