"""``theano.tensor.shared_randomstreams``: random streams that remember where they are.

The numbers are NumPy's (PCG64), not those that Theano drew from the same seed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.random.type import random_generator_type
from pytensor.tensor.random.variable import RandomGeneratorSharedVariable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor import raw_random


class SeedableGenerator(np.random.Generator):
    """NumPy's generator, with the methods of ``numpy.random.RandomState`` that programs call on a stream's."""

    def seed(self, seed: Any = None) -> None:
        """Begin anew."""
        self.bit_generator.state = type(self.bit_generator)(seed).state

    def get_state(self) -> Any:
        """Where the generator is."""
        return self.bit_generator.state

    def set_state(self, state: Any) -> None:
        """Go to where `get_state` was called."""
        kind = getattr(np.random, state["bit_generator"])
        if not isinstance(self.bit_generator, kind):  # a GPU has drawn since, which has a generator of its own kind
            self.__init__(kind())  # type: ignore[misc]
        self.bit_generator.state = state


class RandomStateSharedVariable(RandomGeneratorSharedVariable):
    """The generator of a stream; its value has ``seed``, and a ``numpy.random.RandomState`` may be set."""

    def get_value(self, borrow: bool = False, return_internal_type: bool = False) -> SeedableGenerator:
        generator = super().get_value(borrow=borrow, return_internal_type=return_internal_type)
        return SeedableGenerator(generator.bit_generator)

    def set_value(self, new_value: Any = None, borrow: bool = False, **settings: Any) -> None:
        if isinstance(new_value, np.random.RandomState):
            new_value = np.random.Generator(new_value._bit_generator)
        elif isinstance(new_value, SeedableGenerator):
            new_value = np.random.Generator(new_value.bit_generator)
        super().set_value(new_value, borrow=borrow, **settings)


class RandomStreams:
    """Draws from random streams; each call of a compiled function draws anew.

    Parameters
    ----------
    seed : int, optional

    Notes
    -----
    Each method draws from a stream of its own. The result has ``rng``, the stream's generator (a shared variable), and
    ``update``, the pair of it and what it becomes, which functions made by ``theano.function`` apply by themselves.
    """

    def __init__(self, seed: Any = None):
        self.default_instance_seed = seed
        self.state_updates: list[tuple[Variable, Variable]] = []
        self.gen_seedgen = np.random.SeedSequence(_entropy(seed))

    def updates(self) -> list[tuple[Variable, Variable]]:
        """Generators, and what they become after a draw."""
        return list(self.state_updates)

    def seed(self, seed: Any = None) -> None:
        """Begin all streams anew; without a seed, with the one that they were made with."""
        self.gen_seedgen = np.random.SeedSequence(_entropy(self.default_instance_seed if seed is None else seed))
        for generator, _ in self.state_updates:
            generator.set_value(self._new_generator(), borrow=True)

    def __getitem__(self, generator: Variable) -> SeedableGenerator:
        return generator.get_value(borrow=True)

    def __setitem__(self, generator: Variable, value: Any) -> None:
        generator.set_value(value, borrow=True)

    def _new_generator(self) -> np.random.Generator:
        return np.random.default_rng(self.gen_seedgen.spawn(1)[0])

    def gen(self, draw: Callable[..., tuple[Variable, Variable]], *args: Any, **kwargs: Any) -> Variable:
        """Draw by a function of `raw_random` from a stream of its own."""
        generator = RandomStateSharedVariable(random_generator_type, self._new_generator(), strict=False)
        generator.tag.is_rng = True
        after, draws = draw(generator, *args, **kwargs)
        draws.rng, draws.update = generator, (generator, after)
        self.state_updates.append(draws.update)
        # As the setter does, which tells PyTensor's own users to write updates themselves.
        generator._default_update = after
        return draws

    def shuffle_row_elements(self, input: Any) -> Variable:
        """``input`` with its last axis in random order, another one for each row; ``permutation`` is that order."""
        input = pt.as_tensor_variable(input)
        leading = [input.shape[axis] for axis in range(input.ndim - 1)]
        permutation = self.gen(raw_random.permutation, leading, n=input.shape[input.ndim - 1])
        shuffled = pt.take_along_axis(input, permutation, axis=-1)
        shuffled.permutation = permutation
        return shuffled


def _entropy(seed: Any) -> Any:
    return None if seed is None else [int(part) for part in np.atleast_1d(np.asarray(seed))]


def _method(draw: Callable[..., tuple[Variable, Variable]]) -> Any:
    def method(self, *args, **kwargs):
        return self.gen(draw, *args, **kwargs)

    method.__doc__ = draw.__doc__
    return method


for _draw in ("uniform", "normal", "binomial", "random_integers", "choice", "poisson", "permutation", "multinomial"):
    setattr(RandomStreams, _draw, _method(getattr(raw_random, _draw)))

__getattr__, __dir__ = mirror(__name__)
