"""The states of NumPy's random generators as arrays, so that what is drawn goes on where it stopped."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pytensor.tensor.random.type import RandomGeneratorType

KINDS: dict[str, type[np.random.BitGenerator]] = {"PCG64": np.random.PCG64, "Philox": np.random.Philox}
"""Those that `numpy.random.default_rng` makes, and those that count, which devices draw from."""

WORDS = 14
"""uint64 words of a state: the kind, by its place in `KINDS`; whether half of a draw is kept, and that half; of PCG64
state and increment, high words first, of Philox counter, key, buffer, and how much of the buffer is used; then zeros.
"""

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
        Of one of `KINDS`.

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
    kind = state["bit_generator"]
    if kind not in KINDS:
        raise ValueError(f"generator must be of one of the kinds {', '.join(KINDS)}, got {kind}")
    if kind == "PCG64":
        long = (state["state"]["state"], state["state"]["inc"])
        inner = [word for number in long for word in (number >> 64, number & _LOW)]
    else:
        inner = [*state["state"]["counter"], *state["state"]["key"], *state["buffer"], state["buffer_pos"]]
    words = np.zeros(WORDS, np.uint64)
    words[: 3 + len(inner)] = [list(KINDS).index(kind), state["has_uint32"], state["uinteger"], *inner]
    return words


def generator_of(words: np.ndarray) -> np.random.Generator:
    """The generator whose state `state_words` gave.

    Parameters
    ----------
    words : uint64 array, (`WORDS`,)
        Any numbers make some generator.

    Returns
    -------
    numpy.random.Generator
    """
    kind, has_half, half, *inner = (int(word) for word in words)
    name = list(KINDS)[kind % len(KINDS)]
    bits: Any = KINDS[name]()
    if name == "PCG64":
        # An increment is odd, by the definition of the generator.
        inner_state = {"state": inner[0] << 64 | inner[1], "inc": inner[2] << 64 | inner[3] | 1}
        bits.state = {"bit_generator": name, "state": inner_state} | _half(has_half, half)
        return np.random.Generator(bits)
    counter, key, buffer = np.split(np.array(inner[:10], np.uint64), [4, 6])
    bits.state = {
        "bit_generator": name,
        "state": {"counter": counter, "key": key},
        "buffer": buffer,
        "buffer_pos": min(inner[10], len(buffer)),
    } | _half(has_half, half)
    return np.random.Generator(bits)


def _half(has_half: int, half: int) -> dict[str, int]:
    return {"has_uint32": has_half & 1, "uinteger": half & (2**32 - 1)}
