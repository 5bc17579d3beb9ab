"""The states of NumPy's random generators as arrays, so that what is drawn goes on where it stopped."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pytensor.tensor.random.type import RandomGeneratorType

WORDS = 6
"""uint64 words of a PCG64 state: its state and increment, high word first, and the half of a draw that is kept."""

_LOW = 2**64 - 1


def random_variables(functions: Sequence[Any]) -> list[Any]:
    """The shared random generators that compiled functions draw from, each once.

    Parameters
    ----------
    functions : sequence of compiled functions

    Returns
    -------
    list of shared variables

    Examples
    --------
    >>> import pytensor, pytensor.tensor as pt
    >>> rng = pytensor.shared(np.random.default_rng(0))
    >>> draw = pytensor.function([], pt.random.normal(rng=rng), mode="FAST_COMPILE")
    >>> random_variables([draw, draw]) == [rng]
    True
    """
    shared = dict.fromkeys(variable for function in functions for variable in function.get_shared())
    return [variable for variable in shared if isinstance(variable.type, RandomGeneratorType)]


def state_words(generator: np.random.Generator) -> np.ndarray:
    """The state of a generator.

    Parameters
    ----------
    generator : numpy.random.Generator
        Of the kind PCG64, as `numpy.random.default_rng` makes it.

    Returns
    -------
    uint64 array, (`WORDS`,)

    Raises
    ------
    ValueError
        It is of another kind.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> same = generator_of(state_words(generator))
    >>> generator.random() == same.random()
    True
    """
    state: Any = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"generator must be of the kind PCG64, got {state['bit_generator']}")
    long = (state["state"]["state"], state["state"]["inc"])
    words = [word for number in long for word in (number >> 64, number & _LOW)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64)


def generator_of(words: np.ndarray) -> np.random.Generator:
    """The generator whose state `state_words` gave.

    Parameters
    ----------
    words : uint64 array, (`WORDS`,)
        Any numbers; a generator takes them as they are.

    Returns
    -------
    numpy.random.Generator
    """
    state_high, state_low, increment_high, increment_low, has_half, half = (int(word) for word in words)
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        # An increment is odd, by the definition of the generator.
        "state": {"state": state_high << 64 | state_low, "inc": increment_high << 64 | increment_low | 1},
        "has_uint32": has_half & 1,
        "uinteger": half & (2**32 - 1),
    }
    return np.random.Generator(bits)
