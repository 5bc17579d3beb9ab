"""Drawing winners: the reference, probabilities, edges, shapes, refusals."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given

from pytensor_convnet import reference
from pytensor_convnet.ops import DrawWinners2d, MaxPool2dGather
from tests.ops.common import PYTHON, check_infer_shape, check_static_shapes, check_vectorized, run
from tests.strategies import pools

WINDOWS = (3, 2), (2, 1), ((1, 0), (0, 1))


@given(pools())
def test_winners_are_the_references(case):
    uniforms = np.random.default_rng(0).uniform(size=case.maps.shape)
    [winners] = run(DrawWinners2d(), case.images, uniforms, *case.windows)
    expected = reference.draw_winners2d(case.images, uniforms, np.uint8, *case.windows)
    assert winners.dtype == "uint8"
    np.testing.assert_array_equal(winners, expected)


@given(pools(dtype="float32"))
def test_winners_are_inside_the_images(case):
    uniforms = np.random.default_rng(0).uniform(size=case.maps.shape).astype("float32")
    [winners] = run(DrawWinners2d(), case.images, uniforms, *case.windows)
    [picked] = run(MaxPool2dGather(), np.ones_like(case.images), winners, *case.windows)
    assert np.all(picked == 1)


def test_draws_are_in_proportion():
    weights = np.array([0.0, 1.0, -5.0, 2.0, 5.0, 0.0])
    images = np.broadcast_to(weights.reshape(1, 1, 2, 3), (20_000, 1, 2, 3))
    uniforms = np.random.default_rng(0).uniform(size=(20_000, 1, 1, 1))
    [winners] = run(DrawWinners2d(), images, uniforms, (2, 3), (1, 1), ((0, 0), (0, 0)))
    shares = np.bincount(winners.ravel(), minlength=6) / winners.size
    np.testing.assert_allclose(shares, [0, 1 / 8, 0, 2 / 8, 5 / 8, 0], atol=0.015)


@pytest.mark.parametrize(("uniform", "winner"), [(0.0, 1), (0.24, 1), (0.25, 3), (1.0, 3)])
def test_no_uniform_draws_a_pixel_of_no_weight(uniform, winner):
    image = np.array([[[[0.0, 1.0], [0.0, 3.0]]]])
    [winners] = run(DrawWinners2d(), image, np.full((1, 1, 1, 1), uniform), (2, 2), (2, 2), ((0, 0), (0, 0)))
    assert winners.item() == winner


@pytest.mark.parametrize(
    ("pixels", "winner"), [([0, 0, 0], 0), ([-1, -2, -3], 0), ([1, np.inf, 2], 1), ([1, np.inf, np.nan], 2)]
)
def test_windows_without_a_share_follow_a_rule(pixels, winner):
    image = np.array(pixels, "float64").reshape(1, 1, 1, 3)
    [winners] = run(DrawWinners2d(), image, np.full((1, 1, 1, 1), 0.5), (1, 3), (1, 1), ((0, 0), (0, 0)))
    assert winners.item() == winner
    expected = reference.draw_winners2d(image, np.full((1, 1, 1, 1), 0.5), np.uint8, (1, 3), (1, 1), ((0, 0), (0, 0)))
    assert expected.item() == winner


def test_shapes():
    arrays = [np.ones((2, 3, 7, 5)), np.full((2, 3, 3, 5), 0.5)]
    check_static_shapes(DrawWinners2d(), arrays, WINDOWS)
    check_infer_shape(DrawWinners2d(), arrays, WINDOWS)


def test_vectorize_graph_stacks_results():
    random = np.random.default_rng(0)
    check_vectorized(
        DrawWinners2d(), [random.uniform(size=shape) for shape in ((2, 3, 7, 5), (2, 3, 3, 5))], WINDOWS, (0, 1)
    )


def test_the_numba_backend_draws_the_same():
    images, uniforms = pt.tensor4("images", dtype="float32"), pt.tensor4("uniforms", dtype="float32")
    winners = DrawWinners2d()(images, uniforms, *WINDOWS)
    random = np.random.default_rng(0)
    values = random.uniform(-1, 2, (4, 3, 7, 5)).astype("float32"), random.uniform(size=(4, 3, 3, 5)).astype("float32")
    ours, other = (pytensor.function([images, uniforms], winners, mode=mode)(*values) for mode in ("NUMBA", PYTHON))
    np.testing.assert_array_equal(ours, other)


def test_uniforms_that_no_window_asks_for_are_refused():
    with pytest.raises(ValueError, match="pooled maps of .* do not come from"):
        DrawWinners2d()(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), (2, 2), (2, 2), ((0, 0), (0, 0)))
