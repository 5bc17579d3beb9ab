"""States of random generators as numbers."""

import numpy as np
import pytest

from pytensor_convnet.random_states import WORDS, generator_of, state_words


def test_a_generator_goes_on_where_it_stopped():
    generator = np.random.default_rng(3)
    generator.integers(10, dtype=np.uint32)  # half of a draw is kept for the next
    again = generator_of(state_words(generator))
    assert generator.integers(2**32, dtype=np.uint32) == again.integers(2**32, dtype=np.uint32)
    np.testing.assert_array_equal(generator.random(5), again.random(5))


def test_any_words_make_a_generator():
    generator_of(np.full(WORDS, 2**64 - 1, np.uint64)).random()


def test_another_kind_of_generator_is_refused():
    with pytest.raises(ValueError, match="must be of the kind PCG64, got Philox"):
        state_words(np.random.Generator(np.random.Philox(0)))
