"""The kernels of fused correlation and max pooling compute what the reference defines, and refuse what does not fit."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import ShapeError, pool_length
from pytensor_convnet.kernels.cpu.activations import ACTIVATIONS
from pytensor_convnet.kernels.cpu.conv_pool import correlate2d_max_pool2d
from pytensor_convnet.kernels.cpu.conv_pool_grad import (
    correlate2d_max_pool2d_filter_grad,
    correlate2d_max_pool2d_input_grad,
)
from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS
from tests.kernels.cpu.passes import FORM_IDS, PASSES, geometry_with_form, most_error, relative_error
from tests.strategies import LAYOUTS, correlations, with_layout

FLOATS = ["float32", "float64"]
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
SLIDING = (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False
PLAIN = (2, 2), (2, 2), ((0, 0), (0, 0))


def close(actual, expected):
    assert actual.dtype == expected.dtype
    scale = max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype.name] * scale)


def plain(filters):
    """Arguments for biases of zero and no activation."""
    return np.zeros(len(filters), filters.dtype), ACTIVATIONS["identity"]


@st.composite
def fused(draw, dtype):
    """A correlation, windows over its maps, whether partial ones count, and winners with a gradient for the maxima."""
    case = draw(correlations(dtype=dtype, max_batch=20))
    lengths = case.maps.shape[2:]
    axes, fits = [], True
    for length in lengths:
        window, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        before, after = draw(st.integers(0, window - 1)), draw(st.integers(0, window - 1))
        fits &= window <= length + before + after
        axes.append((window, stride, (before, after)))
    windows = tuple(zip(*axes))
    ignore_border = draw(st.booleans()) and fits
    counts = [pool_length(n, w, s, *p, ignore_border) for n, w, s, p in zip(lengths, *windows)]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = random.standard_normal((*case.maps.shape[:2], *counts)).astype(dtype)
    maps = with_layout(maps, draw(st.sampled_from(LAYOUTS)))
    _, winners = reference.max_pool2d(case.maps, np.uint8, *windows, ignore_border)
    return case, windows, ignore_border, winners, maps


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_maxima_and_winners(dtype, data):
    case, windows, ignore_border, _, _ = data.draw(fused(dtype))
    arguments = *case.window, *windows, ignore_border
    maxima, winners = correlate2d_max_pool2d(case.images, case.filters, np.uint8, *arguments, *plain(case.filters))
    assert winners.dtype == np.uint8
    close(
        maxima,
        reference.max_pool2d(
            reference.correlate2d(case.images, case.filters, *case.window), np.uint8, *windows, ignore_border
        )[0],
    )
    # Rounding may decide between maps that are equal, so the winners are only asked to have won.
    maps = reference.correlate2d(case.images, case.filters, *case.window)
    close(reference.max_pool2d_gather(maps, winners, *windows), maxima)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_filter_grad(dtype, data):
    case, windows, _, winners, maps = data.draw(fused(dtype))
    arguments = case.images, winners, maps, *case.taps, *case.maps.shape[2:], *case.window, *windows
    close(correlate2d_max_pool2d_filter_grad(*arguments), reference.correlate2d_max_pool2d_filter_grad(*arguments))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_input_grad(dtype, data):
    case, windows, _, winners, maps = data.draw(fused(dtype))
    arguments = case.filters, winners, maps, *case.rows_and_columns, *case.maps.shape[2:], *case.window, *windows
    close(correlate2d_max_pool2d_input_grad(*arguments), reference.correlate2d_max_pool2d_input_grad(*arguments))


WINDOWS = {
    "apart": ((2, 2), (2, 2), ((0, 0), (0, 0))),
    "overlapping": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "sliding": ((3, 2), (1, 1), ((1, 1), (0, 1))),
}


def pooled_case(name, form, windows, dtype="float32", **least):
    """A geometry for whose pass the plan chooses a form, its arrays, and winners and a gradient of pooled maps."""
    geometry = geometry_with_form(name, form, whole=True, **least)
    images, filters, maps = geometry.arrays(dtype)
    maxima, winners = reference.max_pool2d(maps, np.uint8, *windows, False)
    return geometry, images, filters, winners, maxima


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)
def test_every_form_of_maxima(form, windows, dtype):
    geometry, images, filters, _, _ = pooled_case("correlate2d", form, windows, dtype)
    assert geometry.plan("correlate2d", whole=True)[1].form == form
    maxima, winners = correlate2d_max_pool2d(
        images, filters, np.uint8, *geometry.moves, *windows, False, *plain(filters)
    )
    maps = geometry.define("correlate2d", images, filters, maxima)
    expected, _ = reference.max_pool2d(maps, np.uint8, *windows, False)
    most = most_error(geometry.summed_terms("correlate2d"), dtype)
    assert relative_error(maxima, expected) <= most
    assert relative_error(reference.max_pool2d_gather(maps, winners, *windows), expected) <= most


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)
@pytest.mark.parametrize("name", PASSES[1:])
def test_every_form_of_gradients(name, form, windows, dtype):
    geometry, images, filters, winners, maxima = pooled_case(name, form, windows, dtype)
    maps = reference.max_pool2d_grad(winners, maxima.astype("float64"), *geometry.maps[2:], *windows)
    pooled = winners, maxima
    if name == "correlate2d_input_grad":
        result = correlate2d_max_pool2d_input_grad(
            filters, *pooled, *geometry.images[2:], *geometry.maps[2:], *geometry.moves, *windows
        )
    else:
        result = correlate2d_max_pool2d_filter_grad(
            images, *pooled, *geometry.filters[2:], *geometry.maps[2:], *geometry.moves, *windows
        )
    error = relative_error(result, geometry.define(name, images, filters, maps))
    assert error <= most_error(geometry.summed_terms(name), dtype)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)
def test_results_do_not_depend_on_the_number_of_threads(form, windows):
    geometry, images, filters, winners, maxima = pooled_case(
        "correlate2d", form, windows, least_multiply_adds=2_000_000
    )
    lengths = geometry.maps[2:]

    def everything():
        return (
            *correlate2d_max_pool2d(images, filters, np.uint8, *geometry.moves, *windows, False, *plain(filters)),
            correlate2d_max_pool2d_input_grad(
                filters, winners, maxima, *geometry.images[2:], *lengths, *geometry.moves, *windows
            ),
            correlate2d_max_pool2d_filter_grad(
                images, winners, maxima, *geometry.filters[2:], *lengths, *geometry.moves, *windows
            ),
        )

    allowed = numba.get_num_threads()
    threaded = everything()
    try:
        numba.set_num_threads(1)
        for one, other in zip(everything(), threaded):
            assert one.tobytes() == other.tobytes()
    finally:
        numba.set_num_threads(allowed)


def test_wide_winners():
    random = np.random.default_rng(0)
    images, filters = random.standard_normal((2, 1, 24, 22)), random.standard_normal((3, 1, 3, 3))
    sliding = (1, 1), ((1, 1), (1, 1)), (1, 1), 1, False
    windows = (17, 18), (3, 2), ((4, 0), (1, 2))
    maxima, winners = correlate2d_max_pool2d(images, filters, np.int64, *sliding, *windows, True, *plain(filters))
    expected = reference.max_pool2d(reference.correlate2d(images, filters, *sliding), np.int64, *windows, True)
    close(maxima, expected[0])
    np.testing.assert_array_equal(winners, expected[1])
    arguments = winners, maxima, 24, 22, *sliding, *windows
    close(
        correlate2d_max_pool2d_filter_grad(images, *arguments[:2], 3, 3, *arguments[2:]),
        reference.correlate2d_max_pool2d_filter_grad(images, *arguments[:2], 3, 3, *arguments[2:]),
    )
    with pytest.raises(ValueError, match="one byte cannot number"):
        correlate2d_max_pool2d(images, filters, np.uint8, *sliding, *windows, True, *plain(filters))


def test_nan_wins():
    images = np.ones((17, 1, 4, 4), "float32")
    images[3, 0, 2, 1] = np.nan
    sliding = (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False
    windows = (2, 2), (2, 2), ((0, 0), (0, 0))
    filters = np.ones((1, 1, 1, 1), "float32")
    maxima, winners = correlate2d_max_pool2d(images, filters, np.uint8, *sliding, *windows, True, *plain(filters))
    assert np.isnan(maxima[3, 0, 1, 0])
    assert winners[3, 0, 1, 0] == 1
    assert np.isnan(maxima).sum() == 1


@pytest.mark.parametrize("batch", [3, 20], ids=["maps-written", "fused"])
@pytest.mark.parametrize(
    ("dtype", "activation"),
    [("float32", "identity"), ("float32", "relu"), ("float32", "tanh"), ("float64", "identity"), ("float64", "relu")],
)
def test_biases_and_activations(dtype, activation, batch):
    random = np.random.default_rng(0)
    images, filters = random.standard_normal((batch, 2, 11, 9)), random.standard_normal((5, 2, 3, 3))
    biases = random.standard_normal(10)[::2]
    images, filters, biases = (array.astype(dtype) for array in (images, filters, biases))
    arguments = np.uint8, *SLIDING, *PLAIN, False, biases
    maxima, _ = correlate2d_max_pool2d(images, filters, *arguments, ACTIVATIONS[activation])
    close(maxima, reference.correlate2d_max_pool2d(images, filters, *arguments, activation)[0])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_activations_of_what_is_not_finite(activation):
    images = np.zeros((17, 1, 2, 8), "float32")
    images[:, 0, 0, ::2] = np.nan, np.inf, -np.inf, 0
    images[:, 0, :, 4:6] = -np.inf
    filters = np.ones((1, 1, 1, 1), "float32")
    arguments = np.uint8, *SLIDING, *PLAIN, True, np.zeros(1, "float32"), ACTIVATIONS[activation]
    maxima, _ = correlate2d_max_pool2d(images, filters, *arguments)
    expected = {"relu": [np.nan, np.inf, 0, 0], "tanh": [np.nan, 1, -1, 0]}[activation]
    np.testing.assert_allclose(maxima[3, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "biases", "activation", "sentence"),
    [
        ("float32", 2, 0, "biases must hold a number for each filter"),
        ("float32", 1, 3, "activation must be a number of ACTIVATIONS"),
        ("float64", 1, ACTIVATIONS["tanh"], "tanh takes float32"),
    ],
)
def test_biases_and_activations_that_do_not_fit_are_refused(dtype, biases, activation, sentence):
    images, filters = np.ones((1, 1, 4, 4), dtype), np.ones((1, 1, 1, 1), dtype)
    with pytest.raises(ValueError, match=sentence):
        correlate2d_max_pool2d(images, filters, np.uint8, *SLIDING, *PLAIN, True, np.zeros(biases, dtype), activation)


@pytest.mark.parametrize(
    ("images", "filters", "sentence"),
    [
        ((1, 3, 8, 8), (2, 2, 3, 3), "input has 3 channels but filters expect 2"),
        ((1, 2, 8, 8), (2, 2, 9, 3), "filters span 9 rows"),
        ((1, 2, 8, 8), (2, 2, 8, 3), "ws spans 2 rows but the padded input has only 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, filters, sentence):
    arrays = np.ones(images), np.ones(filters)
    with pytest.raises(ShapeError, match=sentence):
        correlate2d_max_pool2d(*arrays, np.uint8, *SLIDING, *PLAIN, True, *plain(arrays[1]))


@pytest.mark.parametrize("gradient", ["filter", "input"])
@pytest.mark.parametrize(
    ("winner", "pooled", "map_rows", "sentence"),
    [
        (250, 3, 6, "winners hold 250"),
        (0, 4, 6, "pooled maps of 1x2x4x3 do not come from|winners are 1x2x4x3"),
        (0, 3, 7, "output_grad is 1x2x7x6 but this convolution's output is 1x2x6x6"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(gradient, winner, pooled, map_rows, sentence):
    winners, maps = np.full((1, 2, pooled, 3), winner, np.uint8), np.ones((1, 2, pooled, 3))
    kernel, shape, length = {
        "filter": (correlate2d_max_pool2d_filter_grad, (1, 2, 8, 8), 3),
        "input": (correlate2d_max_pool2d_input_grad, (2, 2, 3, 3), 8),
    }[gradient]
    with pytest.raises(ShapeError, match=sentence):
        kernel(np.ones(shape), winners, maps, length, length, map_rows, 6, *SLIDING, *PLAIN)
