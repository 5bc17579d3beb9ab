"""Random numbers of mode CUDA."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch

from pytensor_convnet.lowering.cuda import UnsupportedOp
from pytensor_convnet.lowering.cuda.random import philox

COUNT = 40000

pytestmark = pytest.mark.filterwarnings("ignore:RandomVariable Ops will stop hiding")


def sampler(mode, name, *parameters, size=(COUNT,), seed=1):
    """A function that draws, and the generator that it moves on."""
    rng = pytensor.shared(np.random.default_rng(seed))
    next_rng, sample = getattr(pt.random, name)(*parameters, size=size, rng=rng).owner.outputs
    return rng, pytensor.function([], sample, updates={rng: next_rng}, mode=mode)


def test_philox_gives_the_published_numbers():
    """The known answers of the authors' library (Random123, kat_vectors), for philox4x32-10."""
    words = philox(torch.tensor(0), torch.tensor(0), 1)
    assert [int(word[0]) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize(
    ("name", "parameters", "mean", "deviation"),
    [
        ("uniform", (2.0, 4.0), 3.0, np.sqrt(1 / 3)),
        ("normal", (1.0, 2.0), 1.0, 2.0),
        ("exponential", (0.5,), 0.5, 0.5),
        ("laplace", (1.0, 1.0), 1.0, np.sqrt(2)),
        ("logistic", (0.0, 1.0), 0.0, np.pi / np.sqrt(3)),
        ("gumbel", (0.0, 1.0), 0.5772, np.pi / np.sqrt(6)),
        ("bernoulli", (0.3,), 0.3, np.sqrt(0.21)),
        ("integers", (0, 10), 4.5, np.sqrt(99 / 12)),
        ("integers", (-(2**40), 2**40), 0.0, 2**41 / np.sqrt(12)),
        ("halfnormal", (0.0, 1.0), np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)),
    ],
)
def test_moments(mode, name, parameters, mean, deviation):
    _, draw = sampler(mode, name, *parameters)
    numbers = np.asarray(draw(), dtype=float)
    assert abs(numbers.mean() - mean) < 5 * deviation / np.sqrt(COUNT)
    assert abs(numbers.std() / deviation - 1) < 0.05


def test_every_draw_is_another_also_when_captured(mode):
    _, draw = sampler(mode, "uniform", 0.0, 1.0, size=(100,))
    draws = [np.asarray(draw()) for _ in range(5)]
    assert len({draw.tobytes() for draw in draws}) == 5


def test_a_seed_decides_all(mode):
    draws = []
    for seed in (3, 3, 4):
        _, draw = sampler(mode, "normal", 0.0, 1.0, size=(10,), seed=seed)
        draws.append(np.stack([np.asarray(draw()) for _ in range(4)]))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_the_generator_read_and_set_again_goes_on_where_it_was(mode):
    rng, draw = sampler(mode, "uniform", 0.0, 1.0, size=(10,))
    for _ in range(3):
        draw()
    state = rng.get_value()
    assert isinstance(state, np.random.Generator)
    ahead = np.asarray(draw())
    draw()
    rng.set_value(state)
    np.testing.assert_array_equal(draw(), ahead)


def test_dropout_trains(mode):
    rng = pytensor.shared(np.random.default_rng(0))
    w = pytensor.shared(np.ones(1000, "float32"))
    next_rng, kept = pt.random.bernoulli(0.5, size=(1000,), rng=rng).owner.outputs
    output = (w * kept.astype("float32")).sum()
    step = pytensor.function(
        [], output, updates={w: w - np.float32(0.1) * pt.grad(output, w), rng: next_rng}, mode=mode
    )
    outputs = [float(step()) for _ in range(4)]
    assert 400 < outputs[0] < 600
    assert outputs[3] < outputs[0]


def test_a_distribution_without_a_lowering_is_named(mode):
    with pytest.raises(UnsupportedOp, match="numbers are drawn from bernoulli, cauchy"):
        sampler(mode, "poisson", 3.0)
