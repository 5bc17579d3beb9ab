"""Average pooling that biases and rectifies, and its gradients, against the reference: layouts, bands, threads."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.kernels.cpu import MODES, rectified_average_pool2d, rectified_average_pool2d_grad
from tests.strategies import LAYOUTS, pools, with_layout

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
OVERLAPPING = (3, 3), (2, 2), ((1, 1), (1, 1))
WINDOWS = [
    OVERLAPPING,
    ((2, 2), (2, 2), ((0, 0), (0, 0))),
    ((3, 4), (1, 2), ((2, 0), (2, 1))),
    ((1, 1), (1, 1), ((0, 0), (0, 0))),
]


def check(images, maps, windows, ignore_border, mode):
    """Compare with the reference, of which the images and biases are few different numbers."""
    dtype = images.dtype
    biases = np.resize(np.array([-1, 0, 0.5, 1], dtype), images.shape[1])
    tolerance = TOLERANCE[str(dtype)]
    pooled = rectified_average_pool2d(images, biases, *windows, ignore_border, MODES[mode])
    expected = reference.rectified_average_pool2d(images, biases, *windows, ignore_border, mode)
    assert pooled.dtype == dtype
    np.testing.assert_allclose(pooled, expected, rtol=tolerance, atol=tolerance)
    grads = rectified_average_pool2d_grad(images, biases, maps, *windows, MODES[mode])
    expected = reference.rectified_average_pool2d_grad(images, biases, maps, *windows, mode)
    for found, wanted in zip(grads, expected, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * max(1, abs(wanted).max(initial=0)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_any_window_and_layout(dtype, mode, data):
    case = data.draw(pools(dtype=dtype))
    check(case.images, case.maps, case.windows, case.ignore_border, mode)


@pytest.mark.parametrize("columns", [1, 7, 8, 15, 16, 17, 33])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_about_as_long_as_vectors(layout, columns):
    random = np.random.default_rng(columns)
    images = random.integers(-2, 3, (18, 17, 5, columns)).astype("float32")
    for windows in WINDOWS:
        maps = random.standard_normal(reference.average_pool2d(images, *windows, False, "sum").shape, dtype="float32")
        check(with_layout(images, layout), with_layout(maps, layout), windows, False, "average_exc_pad")


def test_parts_of_a_larger_array():
    random = np.random.default_rng(0)
    images = random.integers(-2, 3, (5, 12, 13, 40)).astype("float32")[1:, ::2, 2:, 3:20]
    maps = random.standard_normal((4, 6, 6, 9, 2), dtype="float32")[..., 1]
    check(images, maps, OVERLAPPING, True, "average_inc_pad")


@pytest.mark.parametrize(
    "shape", [(1, 70, 16, 16), (3, 5, 100, 70), (2, 3, 260, 130)], ids=["many planes", "few planes", "large planes"]
)
def test_images_of_several_bands(shape):
    random = np.random.default_rng(0)
    images = random.standard_normal(shape, dtype="float32")
    maps = random.standard_normal(reference.average_pool2d(images, *OVERLAPPING, True, "sum").shape, dtype="float32")
    check(images, maps, OVERLAPPING, True, "average_inc_pad")


def test_special_numbers():
    images = np.tile(np.array([0.0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 3], "float32"), (2, 3, 4, 3))
    maps = np.full((2, 3, 2, 12), 2, "float32")
    with np.errstate(invalid="ignore"):
        check(images, maps, WINDOWS[1], True, "sum")


def test_gradients_of_biases_are_added_up_in_64_bits():
    images = np.ones((64, 1, 64, 64), "float32")
    maps = np.random.default_rng(0).random((64, 1, 64, 64), dtype="float32")
    _, found = rectified_average_pool2d_grad(images, np.zeros(1, "float32"), maps, *WINDOWS[3], MODES["sum"])
    assert found[0] == np.float32(maps.sum(dtype=np.float64))


def test_biases_of_any_stride():
    images = np.random.default_rng(0).standard_normal((2, 4, 6, 6), dtype="float32")
    biases = np.arange(8, dtype="float32")[::-2]
    pooled = rectified_average_pool2d(images, biases, *OVERLAPPING, True, MODES["sum"])
    np.testing.assert_allclose(
        pooled, reference.rectified_average_pool2d(images, biases, *OVERLAPPING, True, "sum"), 1e-5
    )


def test_results_do_not_depend_on_the_pool_and_hardly_on_the_number_of_threads():
    random = np.random.default_rng(0)
    images, biases = random.standard_normal((9, 20, 16, 16), dtype="float32"), np.zeros(20, "float32")
    maps = random.standard_normal((9, 20, 8, 8), dtype="float32")
    results = []
    before = numba.get_num_threads()
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results += [rectified_average_pool2d_grad(images, biases, maps, *OVERLAPPING, 1) for _ in range(2)]
    finally:
        numba.set_num_threads(before)
    for images_grad, biases_grad in results:
        np.testing.assert_array_equal(images_grad, results[0][0])
        np.testing.assert_allclose(biases_grad, results[0][1], rtol=1e-6)
    for first, second in zip(results[::2], results[1::2]):
        np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("count", [2, 4])
def test_biases_of_another_number_are_refused(count):
    images, maps, biases = np.zeros((1, 3, 4, 4)), np.zeros((1, 3, 2, 2)), np.zeros(count)
    with pytest.raises(ValueError, match="biases must hold a number for each channel of the input"):
        rectified_average_pool2d(images, biases, *OVERLAPPING, True, 0)
    with pytest.raises(ValueError, match="biases must hold a number for each channel of the input"):
        rectified_average_pool2d_grad(images, biases, maps, *OVERLAPPING, 0)
