"""Probabilistic max pooling: a softmax over each block and the case that nothing is on."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet.cuda_convnet import ProbMaxPool, prob_max_pool_c01b
from tests.cuda_convnet.common import evaluate, pool_windows
from tests.ops.common import PYTHON, close

random = np.random.default_rng(0)
CASES = [
    pytest.param((1, 2, 2, 1), 2, 0, id="one-block"),
    pytest.param((3, 6, 9, 130), (2, 3), 0, id="rectangles"),
    pytest.param((2, 7, 5, 3), 3, (-1, 0), id="smaller-blocks-at-the-edges"),
]
every_case = pytest.mark.parametrize(("shape", "ds", "start"), CASES)


def expected_units(images, top_down, ds, start):
    h, p = np.zeros_like(images), np.zeros_like(top_down)
    for y, x, rows, columns in pool_windows(images.shape, ds, ds, start):
        weights = np.exp(images[:, rows, columns] + top_down[:, None, None, y, x])
        sums = weights.sum(axis=(1, 2))
        h[:, rows, columns] = weights / (1 + sums)[:, None, None]
        p[:, y, x] = sums / (1 + sums)
    return p, h


def drawn(shape, ds, start):
    images = random.standard_normal(shape)
    places = list(pool_windows(shape, ds, ds, start))
    return images, random.standard_normal((shape[0], places[-1][0] + 1, places[-1][1] + 1, shape[3]))


@every_case
@pytest.mark.parametrize("from_above", [True, False])
def test_units_follow_the_definition(shape, ds, start, from_above):
    images, top_down = drawn(shape, ds, start)
    ours = evaluate(ProbMaxPool(ds, start)(images, top_down if from_above else None))
    for one, other in zip(ours, expected_units(images, top_down * from_above, ds, start), strict=True):
        close(one, other)


@pytest.mark.parametrize("output", [0, 1])
def test_gradients_match_finite_differences(output):
    def units(images, top_down):
        return ProbMaxPool((2, 3), (-1, 0))(images, top_down)[output]

    values = drawn((2, 3, 5, 2), (2, 3), (-1, 0))
    verify_grad(units, list(values), mode=PYTHON, rng=np.random.default_rng(0))


def test_nothing_overflows():
    images = np.array([1000.0, 1000.0, -1000.0, 0.0]).reshape(1, 2, 2, 1)
    p, h = evaluate(ProbMaxPool(2)(images))
    assert p.item() == 1
    close(h.ravel(), [0.5, 0.5, 0, 0])
    p, h = evaluate(ProbMaxPool(2)(-images - 5000))
    assert p.item() == 0
    assert not h.any()


def test_samples_are_as_probable_as_the_units():
    images = np.repeat(random.standard_normal((1, 4, 5, 1)), 8000, axis=3)
    operator = ProbMaxPool((2, 3))
    p, h, p_sample, h_sample = evaluate([*operator(images), *operator.sample(images)])
    assert set(np.unique(h_sample)) == set(np.unique(p_sample)) == {0.0, 1.0}
    np.testing.assert_allclose(p_sample.mean(axis=3), p[..., 0], atol=0.03)
    np.testing.assert_allclose(h_sample.mean(axis=3), h[..., 0], atol=0.03)
    for y, x, rows, columns in pool_windows(images.shape, (2, 3), (2, 3)):
        np.testing.assert_array_equal(h_sample[:, rows, columns].sum(axis=(1, 2)), p_sample[:, y, x])


def test_a_seed_decides_samples():
    images = random.standard_normal((3, 8, 8, 4))
    one, other, third = (evaluate(ProbMaxPool(2).sample(images, seed=seed)[1]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, other)
    assert (one != third).any()


def test_the_function_is_the_operator():
    images = random.standard_normal((2, 5, 4, 3))
    for one, other in zip(evaluate(prob_max_pool_c01b(images, (2, 2))), evaluate(ProbMaxPool(2)(images)), strict=True):
        close(one, other)


def test_float32_stays_float32():
    images = pt.tensor4("images", dtype="float32")
    assert {x.type.dtype for x in (*ProbMaxPool(2)(images), *ProbMaxPool(2).sample(images))} == {"float32"}


def test_the_numba_backend_agrees():
    images = pt.tensor4("images", dtype="float64")
    p, h = ProbMaxPool(2)(images)
    outputs = [p, h, pytensor.grad((p**2).sum() + (h**3).sum(), images)]
    value = random.standard_normal((2, 5, 4, 3))
    ours, other = (pytensor.function([images], outputs, mode=mode)(value) for mode in ("NUMBA", PYTHON))
    for one, two in zip(ours, other, strict=True):
        close(one, two)


@pytest.mark.parametrize("settings", [{"start": 1}, {"outputs": 2}])
def test_units_without_a_block_are_refused(settings):
    with pytest.raises(ValueError, match="each detection unit belongs to a block"):
        ProbMaxPool(2, **settings)
