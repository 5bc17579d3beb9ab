"""Random streams: the right distributions, anew at each call, the same from the same seed."""

import numpy as np
import pytest

from tests.compat.values import value_of
from tests.ops.common import PYTHON

pytestmark = pytest.mark.usefixtures("old_imports")
MANY = 20_000


@pytest.fixture(params=["shared_randomstreams", "rng_mrg"])
def streams(request, old_imports):
    from theano.sandbox.rng_mrg import MRG_RandomStreams
    from theano.tensor.shared_randomstreams import RandomStreams

    return {"shared_randomstreams": RandomStreams, "rng_mrg": MRG_RandomStreams}[request.param]


def near(sample, mean, deviation):
    """Within five standard errors."""
    assert abs(np.mean(sample) - mean) < 5 * deviation / np.sqrt(np.size(sample))


DRAWS = [
    ("uniform", {"low": -1.0, "high": 3.0}, 1, 4 / np.sqrt(12)),
    ("normal", {"avg": 2.0, "std": 0.5}, 2, 0.5),
    ("binomial", {"n": 1, "p": 0.3}, 0.3, np.sqrt(0.21)),
    ("binomial", {"n": 5, "p": 0.3}, 1.5, np.sqrt(5 * 0.21)),
    ("random_integers", {"low": 1, "high": 3}, 2, np.sqrt(2 / 3)),
    ("poisson", {"lam": 4.0}, 4, 2),
]


@pytest.mark.parametrize(("name", "parameters", "mean", "deviation"), DRAWS)
def test_draws_have_their_mean_and_deviation(streams, name, parameters, mean, deviation):
    draws = value_of(getattr(streams(7), name)((MANY,), **parameters))
    near(draws, mean, deviation)
    near((draws - mean) ** 2, deviation**2, 3 * deviation**2)


@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_floats_are_those_of_the_configuration(streams, name, old_imports):
    old_imports.floatX = "float32"
    assert getattr(streams(7), name)((2, 3)).type.dtype == "float32"
    assert getattr(streams(7), name)((2, 3), dtype="float64").type.dtype == "float64"


def test_a_mask_has_the_dtype_asked_for(streams):
    mask = streams(7).binomial((2, 3), p=0.5, dtype="float32")
    assert mask.type.dtype == "float32"
    assert set(np.unique(value_of(mask))) <= {0.0, 1.0}


def test_without_a_size_there_is_a_draw_for_each_parameter(streams):
    p = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(value_of(streams(7).binomial(p=p)), p)
    assert value_of(streams(7).normal(avg=p, std=p + 1)).shape == (2, 3)
    assert value_of(streams(7).binomial()) in (0, 1)


def test_sizes_may_be_symbolic(streams):
    import theano
    import theano.tensor as T

    x = T.matrix()
    u = streams(7).uniform(x.shape)
    v = streams(7).normal(T.stack([x.shape[1], 2]), ndim=2)
    one, other = theano.function([x], [u, v], mode=PYTHON)(np.zeros((3, 4), x.dtype))
    assert one.shape == (3, 4)
    assert other.shape == (4, 2)


def test_each_call_draws_anew_and_a_seed_repeats(streams):
    import theano

    rng = streams(seed=5)
    draw = theano.function([], [rng.uniform((3,)), rng.uniform((3,))], mode=PYTHON)
    first, second = draw(), draw()
    assert len(np.unique(np.concatenate([*first, *second]))) == 12
    rng.seed(5)
    np.testing.assert_array_equal(draw(), first)
    rng.seed()
    np.testing.assert_array_equal(draw(), first)
    rng.seed(6)
    assert not np.array_equal(draw(), first)
    same = streams(seed=5)
    np.testing.assert_array_equal(value_of(same.uniform((3,))), first[0])


def test_updates_may_be_left_out(streams):
    import theano

    rng = streams(seed=5)
    u = rng.uniform((3,))
    again = theano.function([], u, no_default_updates=True, mode=PYTHON)
    np.testing.assert_array_equal(again(), again())
    by_hand = theano.function([], u, updates=rng.updates(), mode=PYTHON)
    assert not np.array_equal(by_hand(), by_hand())


def test_the_generator_of_a_stream_can_be_seeded_and_set_back(streams):
    import theano

    u = streams(seed=5).uniform((3,))
    draw = theano.function([], u, mode=PYTHON)
    generator = u.rng.get_value(borrow=True)
    generator.seed(89234)
    u.rng.set_value(generator, borrow=True)
    first = draw()
    state = u.rng.get_value().get_state()
    second = draw()
    generator = u.rng.get_value()
    generator.set_state(state)
    u.rng.set_value(generator)
    np.testing.assert_array_equal(draw(), second)
    generator.seed(89234)
    u.rng.set_value(generator)
    np.testing.assert_array_equal(draw(), first)
    u.rng.set_value(np.random.RandomState(3))
    assert draw().shape == (3,)


def test_a_generator_goes_back_to_the_state_of_another_kind(streams):
    """Mode CUDA draws by a kind of its own, which the stream then has."""
    u = streams(seed=5).uniform((3,))
    generator = u.rng.get_value()
    state, expected = generator.get_state(), generator.uniform(size=3)
    u.rng.set_value(np.random.Generator(np.random.Philox(1)))
    generator = u.rng.get_value()
    generator.set_state(state)
    np.testing.assert_array_equal(generator.uniform(size=3), expected)


def test_states_are_copied_from_stream_to_stream(streams):
    import theano

    one, other = streams(1), streams(2)
    draws = [theano.function([], rng.normal((4,)), mode=PYTHON) for rng in (one, other)]
    for (generator, _), (target, _) in zip(one.state_updates, other.state_updates):
        target.set_value(generator.get_value())
    np.testing.assert_array_equal(draws[0](), draws[1]())
    assert one[one.state_updates[0][0]].random() != other[other.state_updates[0][0]].bit_generator


def test_probabilities_in_single_precision_are_taken_for_what_they_mean(streams):
    p = np.full((MANY // 10, 10), 0.1, "float32")
    p /= p.sum(1, keepdims=True)
    draws = value_of(streams(7).multinomial(pvals=p, dtype="float32"))
    assert draws.shape == p.shape
    assert draws.dtype == "float32"
    np.testing.assert_array_equal(draws.sum(1), 1)
    near(draws[:, 3], 0.1, 0.3)


def test_choices_and_permutations():
    from theano.tensor.shared_randomstreams import RandomStreams

    rng = RandomStreams(7)
    near(value_of(rng.choice((MANY,), a=5)), 2, np.sqrt(2))
    near(value_of(rng.choice((MANY,), a=[10.0, 20.0], p=[0.9, 0.1], dtype="float64")), 11, 3)
    assert sorted(value_of(rng.choice((5,), a=5, replace=False))) == list(range(5))
    permutations = value_of(rng.permutation((300,), n=4))
    np.testing.assert_array_equal(np.sort(permutations, axis=1), np.tile(np.arange(4), (300, 1)))
    near(permutations[:, 0], 1.5, np.sqrt(1.25))
    assert sorted(value_of(rng.permutation(n=6))) == list(range(6))


def test_rows_are_shuffled():
    from theano.tensor.shared_randomstreams import RandomStreams

    rows = np.arange(20.0).reshape(4, 5)
    shuffled = value_of(RandomStreams(7).shuffle_row_elements(rows))
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), rows)
    assert not np.array_equal(shuffled, rows)


@pytest.mark.parametrize("replace", [True, False])
def test_outcomes_of_rows_of_probabilities(replace):
    from theano.sandbox.rng_mrg import MRG_RandomStreams

    p = np.tile([0.5, 0.3, 0.2], (MANY // 4, 1))
    outcomes = value_of(MRG_RandomStreams(7).choice(2, p=p, replace=replace))
    assert outcomes.shape == (len(p), 2)
    near(outcomes[:, 0] == 0, 0.5, 0.5)
    # without replacement, the second is 0 after a first 1 (0.3 * 0.5 / 0.7) or 2 (0.2 * 0.5 / 0.8)
    near(outcomes[:, 1] == 0, 0.5 if replace else 0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8, 0.5)
    assert replace or (outcomes[:, 0] != outcomes[:, 1]).all()


def test_a_truncated_normal_stays_within_two_deviations():
    from theano.sandbox.rng_mrg import MRG_RandomStreams

    draws = value_of(MRG_RandomStreams(7).truncated_normal((MANY,), avg=1.0, std=2.0))
    assert (abs(draws - 1) <= 4).all()
    near(draws, 1, 2)
    near((draws - 1) ** 2, 4 * 0.7737, 8)


def test_missing_probabilities_are_asked_for():
    from theano.sandbox.rng_mrg import MRG_RandomStreams

    with pytest.raises(ValueError, match="pvals is missing"):
        MRG_RandomStreams(7).multinomial()
    with pytest.raises(ValueError, match="give p and leave a out"):
        MRG_RandomStreams(7).choice(2, a=3)
