"""Pooling Ops: values, ties and NaN, derivatives, shapes, symbolic windows, refusals."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import assume, given
from pytensor.gradient import verify_grad

from pytensor_convnet import reference
from pytensor_convnet.ops import (
    AveragePool2d,
    AveragePool2dGrad,
    MaxPool2d,
    MaxPool2dGather,
    MaxPool2dGrad,
)
from pytensor_convnet.ops.pooling import AVERAGE_MODES
from tests import independent
from tests.ops.common import (
    PYTHON,
    check_infer_shape,
    check_pushforward,
    check_static_shapes,
    check_vectorized,
    close,
    run,
)
from tests.strategies import pools

WINDOWS = [
    pytest.param(((2, 2), (2, 2), ((0, 0), (0, 0))), True, id="plain"),
    pytest.param(((3, 2), (1, 2), ((1, 2), (0, 1))), True, id="overlapping-padded"),
    pytest.param(((3, 3), (2, 3), ((1, 0), (1, 1))), False, id="partial"),
]
every_window = pytest.mark.parametrize(("windows", "ignore_border"), WINDOWS)
every_mode = pytest.mark.parametrize("mode", AVERAGE_MODES)


def distinct_images(shape=(2, 3, 7, 8)):
    """Images without ties, whose pixels lie so far apart that finite differences change no winner."""
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) / 10.0


def all_ops(windows, ignore_border):
    """Each pooling Op with arrays and integers that fit it."""
    images = distinct_images()
    maxima, winners = run(MaxPool2d(ignore_border), images, *windows)
    maps = np.random.default_rng(1).standard_normal(maxima.shape)
    average = AveragePool2d("average_exc_pad", ignore_border)
    return {
        "max": (MaxPool2d(ignore_border), [images], windows),
        "max_grad": (MaxPool2dGrad(), [winners, maps], (*images.shape[2:], *windows)),
        "gather": (MaxPool2dGather(), [images, winners], windows),
        "average": (average, [images], windows),
        "average_grad": (AveragePool2dGrad(*average._props()), [maps], (*images.shape[2:], *windows)),
    }


every_op = pytest.mark.parametrize("name", ["max", "max_grad", "gather", "average", "average_grad"])


@given(pools())
def test_max_pool_agrees_with_scipy_and_the_reference(case):
    maxima, winners = run(MaxPool2d(case.ignore_border), case.images, *case.windows)
    expected = reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)
    np.testing.assert_array_equal(maxima, expected[0])
    np.testing.assert_array_equal(winners, expected[1])
    if case.ignore_border and len(case.images):
        close(maxima, independent.pool2d(case.images, *case.windows, "max"))


@given(pools(dtype="int16"))
def test_max_pool_takes_integers(case):
    maxima, _ = run(MaxPool2d(case.ignore_border), case.images, *case.windows)
    assert maxima.dtype == "int16"
    np.testing.assert_array_equal(
        maxima, reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)[0]
    )


@given(pools())
def test_scatter_and_gather_agree_with_the_reference(case):
    _, winners = reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)
    [images] = run(MaxPool2dGrad(), winners, case.maps, *case.rows_and_columns, *case.windows)
    close(
        images,
        reference.max_pool2d_grad(winners, case.maps, *case.rows_and_columns, *case.windows),
    )
    [maps] = run(MaxPool2dGather(), case.images, winners, *case.windows)
    np.testing.assert_array_equal(maps, reference.max_pool2d_gather(case.images, winners, *case.windows))


@every_mode
@given(case=pools())
def test_averages_agree_with_scipy_and_the_reference(mode, case):
    [maps] = run(AveragePool2d(mode, case.ignore_border), case.images, *case.windows)
    close(maps, reference.average_pool2d(case.images, *case.windows, case.ignore_border, mode))
    if case.ignore_border and len(case.images):
        close(maps, independent.pool2d(case.images, *case.windows, mode))
    [images] = run(AveragePool2dGrad(mode, case.ignore_border), case.maps, *case.rows_and_columns, *case.windows)
    close(images, reference.average_pool2d_grad(case.maps, *case.rows_and_columns, *case.windows, mode))


@given(pools())
def test_padding_never_wins(case):
    images = np.full(case.images.shape, -np.inf)
    maxima, winners = run(MaxPool2d(case.ignore_border), images, *case.windows)
    assert np.all(maxima == -np.inf)
    [gathered] = run(MaxPool2dGather(), np.ones_like(images), winners, *case.windows)
    assert np.all(gathered == 1), "each winner lies inside the image"


def test_nan_wins():
    image = np.array([[[[1.0, np.nan], [5.0, np.inf]]]])
    maxima, winners = run(MaxPool2d(), image, (2, 2), (2, 2), ((0, 0), (0, 0)))
    assert np.isnan(maxima).all()
    assert winners.item() == 1


def test_a_tie_goes_whole_to_the_first_in_row_major_order():
    image = pt.as_tensor(np.zeros((1, 1, 2, 2)))
    maxima, _ = MaxPool2d()(image, (2, 2), (2, 2), ((0, 0), (0, 0)))
    gradient = pytensor.grad(maxima.sum(), image).eval(mode=PYTHON)
    np.testing.assert_array_equal(gradient, [[[[1, 0], [0, 0]]]])


@pytest.mark.parametrize(("window", "dtype"), [((16, 16), "uint8"), ((16, 17), "int64")])
def test_winners_take_one_byte_up_to_256_taps(window, dtype):
    images = np.random.default_rng(0).standard_normal((1, 2, 40, 40))
    windows = window, (7, 5), ((3, 4), (0, 5))
    maxima, winners = run(MaxPool2d(), images, *windows)
    assert winners.dtype == dtype
    np.testing.assert_array_equal(run(MaxPool2dGather(), images, winners, *windows)[0], maxima)


def test_winners_of_a_symbolic_window_are_wide():
    _, winners = MaxPool2d()(pt.tensor4(), pt.lvector(), (1, 1), ((0, 0), (0, 0)))
    assert winners.type.dtype == "int64"


@every_window
def test_max_pool_gradient_matches_finite_differences(windows, ignore_border):
    def maxima(images):
        return MaxPool2d(ignore_border)(images, *windows)[0]

    verify_grad(maxima, [distinct_images()], mode=PYTHON, rng=np.random.default_rng(0))


@every_window
def test_max_pool_second_derivative_matches_finite_differences(windows, ignore_border):
    def gradient(images):
        return pytensor.grad((MaxPool2d(ignore_border)(images, *windows)[0] ** 3).sum(), images)

    verify_grad(gradient, [distinct_images((1, 2, 5, 6)) - 2], mode=PYTHON, rng=np.random.default_rng(0))


@every_mode
@every_window
def test_average_gradients_match_finite_differences(windows, ignore_border, mode):
    def average(images):
        return AveragePool2d(mode, ignore_border)(images, *windows)

    def gradient(images):
        return pytensor.grad((average(images) ** 3).sum(), images)

    images = np.random.default_rng(0).standard_normal((2, 2, 5, 6))
    verify_grad(average, [images], mode=PYTHON, rng=np.random.default_rng(0))
    verify_grad(gradient, [images], mode=PYTHON, rng=np.random.default_rng(0))


@every_op
@every_window
def test_pushforward_matches_finite_differences(windows, ignore_border, name):
    check_pushforward(*all_ops(windows, ignore_border)[name])


@every_op
@every_window
def test_static_shapes_are_the_shapes_that_come_out(windows, ignore_border, name):
    check_static_shapes(*all_ops(windows, ignore_border)[name])


@every_op
@every_window
def test_shapes_are_inferred_without_computing(windows, ignore_border, name):
    check_infer_shape(*all_ops(windows, ignore_border)[name])


@every_op
@every_window
def test_vectorize_graph_stacks_results(windows, ignore_border, name):
    op, arrays, integers = all_ops(windows, ignore_border)[name]
    check_vectorized(op, arrays, integers, range(len(arrays)))


def test_window_and_stride_may_be_symbolic():
    images, window, stride = pt.tensor4("images", dtype="float64"), pt.lvector("window"), pt.lscalar("stride")
    maxima, _ = MaxPool2d(False)(images, window, pt.stack([stride, stride]), ((0, 0), (1, 1)))
    gradient = pytensor.grad(maxima.sum(), images)
    function = pytensor.function([images, window, stride], [maxima, gradient], mode=PYTHON)
    values = distinct_images()
    for size, step in [((2, 2), 2), ((3, 5), 1), ((4, 3), 3)]:
        windows = size, (step, step), ((0, 0), (1, 1))
        expected, winners = reference.max_pool2d(values, np.uint8, *windows, False)
        ours, ours_gradient = function(values, size, step)
        np.testing.assert_array_equal(ours, expected)
        scattered = reference.max_pool2d_grad(winners, np.ones_like(expected), 7, 8, *windows)
        np.testing.assert_array_equal(ours_gradient, scattered)


@given(pools())
def test_winners_outside_the_window_are_refused(case):
    assume(case.maps.size)
    winners = np.full(case.maps.shape, 250, "uint8")
    with pytest.raises(ValueError, match="winners hold 250"):
        run(MaxPool2dGrad(), winners, case.maps, *case.rows_and_columns, *case.windows)
    with pytest.raises(ValueError, match="winners hold 250"):
        run(MaxPool2dGather(), case.images, winners, *case.windows)


@given(pools())
def test_maps_that_no_window_gave_are_refused(case):
    long = np.concatenate([case.maps, case.maps, case.maps, case.maps], axis=2)[:, :, : case.maps.shape[2] + 3]
    assume(long.shape[2] == case.maps.shape[2] + 3)
    with pytest.raises(ValueError, match="pooled maps of .* do not come from"):
        run(AveragePool2dGrad("sum"), long, *case.rows_and_columns, *case.windows)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode must be one of sum, average_inc_pad, average_exc_pad"):
        AveragePool2d("median")
