"""Stochastic pooling: what is drawn, how often, from which seed, and its mean for testing."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet.cuda_convnet import (
    StochasticMaxPool,
    WeightedMaxPool,
    stochastic_max_pool_c01b,
    weighted_max_pool_c01b,
)
from tests.cuda_convnet.common import evaluate, pool, pool_windows, symbols
from tests.ops.common import PYTHON, close

CASES = [
    pytest.param((1, 2, 2, 1), (2, 2), id="one-window"),
    pytest.param((3, 7, 5, 130), ((3, 2), (2, 2), (-1, 0)), id="overlapping-rectangles"),
    pytest.param((2, 8, 8, 3), (3, 2, 1, 2), id="few-outputs"),
]
every_case = pytest.mark.parametrize(("shape", "windows"), CASES)


def rectified(shape):
    """What a rectifier gives: every other pixel is zero, and some whole windows are."""
    images = np.maximum(np.random.default_rng(0).standard_normal(shape), 0)
    images[:, :3, :3, 0] = 0
    return images


def weighted(pixels):
    positive = np.maximum(pixels, 0)
    sums = positive.sum(axis=1)
    return np.divide((positive**2).sum(axis=1), sums, out=np.zeros_like(sums), where=sums > 0)


@every_case
def test_every_draw_is_a_pixel_of_its_window(shape, windows):
    images = rectified(shape)
    pooled = evaluate(StochasticMaxPool(*windows)(images))
    for y, x, rows, columns in pool_windows(shape, *windows):
        pixels = images[:, rows, columns].reshape(shape[0], -1, shape[3])
        drawn = pooled[:, y, x, :]
        assert (pixels == drawn[:, None]).any(axis=1).all()
        np.testing.assert_array_equal(drawn == 0, pixels.max(axis=1) == 0)


@pytest.mark.parametrize("mode", ["NUMBA", PYTHON])
def test_the_mean_of_many_draws_is_the_weighted_mean(mode):
    images = pt.tensor4("images", dtype="float64")
    means = [operator(images).mean(axis=3) for operator in (StochasticMaxPool(3, 1), WeightedMaxPool(3, 1))]
    function = pytensor.function([images], means, mode=mode)
    drawn, mean = function(np.repeat(rectified((2, 4, 4, 1)), 4000, axis=3))
    np.testing.assert_allclose(drawn, mean, atol=0.05)


@every_case
@pytest.mark.parametrize("static", [True, False])
def test_weighted_means_follow_the_definition(shape, windows, static):
    images = rectified(shape)
    tensors = [pt.as_tensor(images)] if static else symbols(images)
    function = pytensor.function([] if static else tensors, WeightedMaxPool(*windows)(*tensors), mode=PYTHON)
    close(function(*([] if static else [images])), pool(images, weighted, *windows))


def test_weighted_means_have_the_gradient_of_finite_differences():
    images = np.abs(np.random.default_rng(0).standard_normal((2, 5, 4, 2))) + 0.1
    verify_grad(WeightedMaxPool(3, 2), [images], mode=PYTHON, rng=np.random.default_rng(0))


def test_windows_without_a_positive_pixel_give_zero_and_no_gradient():
    images = pt.as_tensor(np.full((1, 2, 2, 1), -1.0))
    for pooled in (StochasticMaxPool(2, 2)(images), WeightedMaxPool(2, 2)(images)):
        value, gradient = evaluate([pooled, pytensor.grad(pooled.sum(), images)])
        assert value.item() == 0
        assert not gradient.any()


def test_the_gradient_goes_to_the_pixel_that_was_drawn():
    images = pt.as_tensor(np.arange(1.0, 33).reshape(2, 4, 4, 1))
    pooled = StochasticMaxPool(2, 2)(images)
    value, gradient = evaluate([pooled, pytensor.grad(pooled.sum(), images)])
    np.testing.assert_array_equal(np.sort(images.data[gradient == 1]), np.sort(value.ravel()))
    assert gradient.sum() == value.size


def draws(calls, **settings):
    pooled = StochasticMaxPool(2, 2, **settings)(np.arange(1.0, 401).reshape(1, 20, 20, 1))
    function = pytensor.function([], pooled, mode=PYTHON)
    return [function() for _ in range(calls)]


def test_a_seed_decides_all_draws():
    first, second = draws(2, seed=1)
    assert (first != second).any(), "each call draws anew"
    for one, other in zip(draws(2, seed=1), [first, second], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (draws(1, seed=2)[0] != first).any()


def test_a_shared_generator_goes_on_from_layer_to_layer():
    generator = pytensor.shared(np.random.default_rng(1))
    images = np.arange(1.0, 401).reshape(1, 20, 20, 1)
    layers = [StochasticMaxPool(2, 2, rng=generator)(images) for _ in range(2)]
    first, second = pytensor.function([], layers, mode=PYTHON)()
    assert (first != second).any()
    np.testing.assert_array_equal(first, draws(1, seed=1)[0])


def test_a_stream_may_draw():
    class Stream:
        def uniform(self, size, dtype):
            return pt.zeros(size, dtype=dtype)

    [smallest] = draws(1, rng=Stream())
    assert smallest[0, 0, 0, 0] == 1


@pytest.mark.filterwarnings("ignore:RandomStream is deprecated")
def test_pytensors_random_stream_may_draw():
    from pytensor.tensor.random.utils import RandomStream

    one, other = (draws(1, rng=RandomStream(3))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_the_functions_are_the_operators():
    images = rectified((2, 7, 5, 3))
    arguments = (3, 2), (2, 1), (-1, 0)
    close(
        evaluate(stochastic_max_pool_c01b(images, *arguments, seed=5)),
        evaluate(StochasticMaxPool(*arguments, seed=5)(images)),
    )
    close(evaluate(weighted_max_pool_c01b(images, *arguments)), evaluate(WeightedMaxPool(*arguments)(images)))


def test_what_cannot_draw_is_refused():
    with pytest.raises(ValueError, match=r"rng must be a shared numpy.random.Generator or have a method uniform"):
        StochasticMaxPool(2, 2, rng=3)(np.ones((1, 2, 2, 1)))
