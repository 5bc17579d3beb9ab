"""States of random generators as numbers."""

import numpy as np
import pytest

from pytensor_convnet.random_states import WORDS, generator_of, state_words


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.Philox])
def test_a_generator_goes_on_where_it_stopped(kind):
    generator = np.random.Generator(kind(3))
    generator.integers(10, size=3, dtype=np.uint32)  # half of a draw is kept for the next
    again = generator_of(state_words(generator))
    assert generator.integers(2**32, dtype=np.uint32) == again.integers(2**32, dtype=np.uint32)
    np.testing.assert_array_equal(generator.random(5), again.random(5))


@pytest.mark.parametrize("word", [0, 1, 7, 2**64 - 2, 2**64 - 1])
def test_any_words_make_a_generator(word):
    assert 0 <= generator_of(np.full(WORDS, word, np.uint64)).random() < 1


def test_another_kind_of_generator_is_refused():
    with pytest.raises(ValueError, match="must be of one of the kinds PCG64, Philox, got MT19937"):
        state_words(np.random.Generator(np.random.MT19937(0)))
