"""Kernels of normalisation agree with the reference for every shape, memory layout and power."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.kernels.cpu import cross_map_norm, cross_map_norm_grad, cross_map_sum


def c01b(array):
    """The same numbers with the batch innermost in memory."""
    return np.ascontiguousarray(array.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def cropped(array):
    """The same numbers inside a frame of NaN, of which none may be read."""
    framed = np.full([length + 3 for length in array.shape], np.nan, array.dtype)
    inside = tuple(slice(1, 1 + length) for length in array.shape)
    framed[inside] = array
    return framed[inside]


LAYOUTS = [np.ascontiguousarray, c01b, channels_last, cropped, lambda array: array[:, ::-1, ::-1].copy()[:, ::-1, ::-1]]

shapes = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 20), st.integers(1, 30))
sizes = st.integers(1, 12)
powers = st.sampled_from([0.75, 0.5, 0.25, 1.0, 1.75, 0.0, 4.0, 4.25, 0.6, -0.5])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-5)])
@given(shape=shapes, size=sizes, power=powers, blocked=st.booleans(), data=st.data())
def test_kernels_agree_with_the_reference(dtype, tolerance, shape, size, power, blocked, data):
    random = np.random.default_rng(0)
    images, maps = (random.standard_normal(shape).astype(dtype) for _ in range(2))
    layout, other_layout = (data.draw(st.sampled_from(LAYOUTS)) for _ in range(2))

    def close(ours, expected):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)

    setting = size, 0.2, power, blocked
    close(cross_map_norm(layout(images), *setting), reference.cross_map_norm(images, *setting))
    close(
        cross_map_norm_grad(layout(images), other_layout(maps), *setting),
        reference.cross_map_norm_grad(images, maps, *setting),
    )
    for transposed in (False, True):
        close(
            cross_map_sum(layout(images), size, blocked, transposed),
            reference.cross_map_sum(images, size, blocked, transposed),
        )


def test_nan_stays_among_its_neighbours():
    images = np.ones((1, 9, 2, 20), "float32")
    images[0, 4, 1, 3] = np.nan
    assert np.argwhere(np.isnan(cross_map_norm(images, 3, 1.0, 0.75, False))).tolist() == [
        [0, f, 1, 3] for f in (3, 4, 5)
    ]


def test_the_number_of_threads_does_not_change_a_bit():
    import numba

    images = np.random.default_rng(0).standard_normal((8, 16, 30, 30)).astype("float32")
    threads = numba.get_num_threads()
    several = cross_map_norm(images, 5, 1e-2, 0.75, False)
    try:
        numba.set_num_threads(1)
        one = cross_map_norm(images, 5, 1e-2, 0.75, False)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(one, several)
