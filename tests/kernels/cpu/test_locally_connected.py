"""The CPU kernels of the locally connected correlation compute what the reference defines."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import ShapeError
from pytensor_convnet.kernels.cpu import locally_connected
from pytensor_convnet.kernels.cpu.locally_connected import (
    locally_connected2d,
    locally_connected2d_filter_grad,
    locally_connected2d_input_grad,
)
from tests import independent
from tests.strategies import correlations

FLOATS = ["float32", "float64"]
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
PLAIN = (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False


def random(*shape, dtype="float64"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def close(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE[actual.dtype.name], rtol=0)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_forward(dtype, data):
    case = data.draw(correlations(dtype=dtype, max_batch=9, unshared=True))
    arguments = case.images, case.filters, *case.window
    close(locally_connected2d(*arguments), reference.locally_connected2d(*arguments))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_input_grad(dtype, data):
    case = data.draw(correlations(dtype=dtype, max_batch=9, unshared=True))
    arguments = case.filters, case.maps, *case.rows_and_columns, *case.window
    close(locally_connected2d_input_grad(*arguments), reference.locally_connected2d_input_grad(*arguments))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_filter_grad(dtype, data):
    case = data.draw(correlations(dtype=dtype, max_batch=9, unshared=True))
    arguments = case.images, case.maps, *case.taps, *case.window
    close(locally_connected2d_filter_grad(*arguments), reference.locally_connected2d_filter_grad(*arguments))


def test_patches_that_are_gathered_in_several_blocks():
    channels = locally_connected.PATCH_CELLS // 9 // 4
    images, filters, maps = random(7, channels, 4, 4), random(3, 2, 2, channels, 3, 3), random(7, 3, 2, 2)
    close(locally_connected2d(images, filters, *PLAIN), reference.locally_connected2d(images, filters, *PLAIN))
    arguments = images, maps, 3, 3, *PLAIN
    close(locally_connected2d_filter_grad(*arguments), reference.locally_connected2d_filter_grad(*arguments))


def test_filters_that_are_copied_in_several_blocks():
    channels = locally_connected.PATCH_CELLS // 9 // 4
    filters, maps = random(11, 2, 2, channels, 3, 3), random(3, 11, 2, 2)
    arguments = filters, maps, 4, 4, *PLAIN
    close(locally_connected2d_input_grad(*arguments), reference.locally_connected2d_input_grad(*arguments))


@pytest.mark.parametrize(("batch", "channels", "filters"), [(0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_no_images_channels_or_filters(batch, channels, filters):
    images, maps = random(batch, channels, 4, 4), random(batch, filters, 2, 2)
    weights = random(filters, 2, 2, channels, 3, 3)
    close(locally_connected2d(images, weights, *PLAIN), reference.locally_connected2d(images, weights, *PLAIN))
    assert not locally_connected2d_input_grad(weights, maps, 4, 4, *PLAIN).any()
    assert not locally_connected2d_filter_grad(images, maps, 3, 3, *PLAIN).any()


def test_one_pixel():
    images, filters = random(1, 1, 1, 1), random(1, 1, 1, 1, 1, 1)
    close(locally_connected2d(images, filters, *PLAIN), images * filters[..., 0, 0])


def test_equals_a_shared_correlation_when_all_positions_have_the_same_filters():
    images, filters = random(3, 4, 8, 9), random(6, 2, 3, 2)
    everywhere = np.broadcast_to(filters[:, None, None], (6, 5, 10, *filters.shape[1:]))
    window = (2, 1), ((2, 2), (1, 1)), (1, 1), 2, False
    expected = independent.correlate2d(images, filters, *window)
    close(locally_connected2d(images, everywhere, *window), expected)


@pytest.mark.parametrize(
    ("images", "filters", "groups", "problem"),
    [
        ((2, 3, 5, 5), (4, 3, 3, 2, 3, 3), 1, "input has 3 channels but filters expect 2"),
        ((2, 3, 5, 5), (4, 3, 3, 1, 3, 3), 2, "num_groups=2 does not divide the 3 channels"),
        ((2, 4, 5, 5), (3, 3, 3, 2, 3, 3), 2, "num_groups=2 does not divide the 3 filters"),
        ((2, 3, 5, 5), (4, 1, 1, 3, 6, 3), 1, "filters span 6 rows but the padded input has only 5"),
        ((2, 3, 5, 5), (4, 1, 1, 3, 3, 0), 1, "filters have no columns"),
        ((2, 3, 5, 5), (4, 3, 2, 3, 3, 3), 1, "2x4x3x2 but this convolution's output is 2x4x3x3"),
    ],
)
def test_filters_that_do_not_fit(images, filters, groups, problem):
    window = (1, 1), ((0, 0), (0, 0)), (1, 1), groups, False
    with pytest.raises(ShapeError, match=problem) as error:
        locally_connected2d(np.zeros(images), np.zeros(filters), *window)
    assert "x".join(map(str, images)) in str(error.value)
    assert "x".join(map(str, filters)) in str(error.value)


@pytest.mark.parametrize("maps", [(2, 4, 3, 2), (2, 5, 3, 3), (1, 4, 4, 3)])
def test_maps_that_do_not_fit(maps):
    shown = "x".join(map(str, maps))
    with pytest.raises(ShapeError, match=f"output_grad is {shown} but this convolution's output is "):
        locally_connected2d_input_grad(np.zeros((4, 3, 3, 3, 3, 3)), np.zeros(maps), 5, 5, *PLAIN)


@pytest.mark.parametrize("maps", [(2, 4, 3, 2), (1, 4, 3, 3), (2, 4, 4, 3)])
def test_maps_that_do_not_fit_the_images(maps):
    shown = "x".join(map(str, maps))
    with pytest.raises(ShapeError, match=f"output_grad is {shown} but this convolution's output is "):
        locally_connected2d_filter_grad(np.zeros((2, 3, 5, 5)), np.zeros(maps), 3, 3, *PLAIN)


@pytest.mark.parametrize("channels", [1, 8])
def test_serial_and_threaded_agree_bit_for_bit(channels):
    images, filters, maps = random(9, channels, 16, 16), random(8, 14, 14, channels, 3, 3), random(9, 8, 14, 14)

    def everything():
        return (
            locally_connected2d(images, filters, *PLAIN),
            locally_connected2d_input_grad(filters, maps, 16, 16, *PLAIN),
            locally_connected2d_filter_grad(images, maps, 3, 3, *PLAIN),
        )

    threads = numba.get_num_threads()
    threaded = everything()
    numba.set_num_threads(1)
    try:
        serial = everything()
    finally:
        numba.set_num_threads(threads)
    for one, other in zip(serial, threaded):
        assert one.tobytes() == other.tobytes()
