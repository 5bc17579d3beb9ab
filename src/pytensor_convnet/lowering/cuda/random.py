"""Random numbers on the device, from a counter: the same for a seed on every device, and fit to be captured.

The state of a generator is two numbers on the device, a key and a count of the draws made. A draw is a function of
these alone (Philox4x32-10; J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), written in
elementwise operations, which torch's compiler makes one kernel, and in which the number of an element is the
counter's low half and the count of draws its high half. It is not the stream that NumPy's generator of the same seed
gives.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply, Constant
from pytensor.tensor.random.op import RandomVariable

from pytensor_convnet.lowering.cuda.base import Lowering, Target, UnsupportedOp, integers, lower, torch_dtype

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF


def philox(key: torch.Tensor, counter: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Four random 32-bit words for each of ``count`` elements.

    Parameters
    ----------
    key, counter : int64 tensor, ()
    count : int

    Returns
    -------
    four int64 tensors, (count,)
        From 0 to 2**32 - 1.
    """
    element = torch.arange(count, dtype=torch.int64, device=key.device)
    words = [element & _MASK, element >> 32, counter & _MASK, (counter >> 32) & _MASK]
    keys = [key & _MASK, (key >> 32) & _MASK]
    for _ in range(_ROUNDS):
        # A product of two 32-bit words wraps in int64, and its two halves are right all the same.
        products = [multiplier * word for multiplier, word in zip(_MULTIPLIERS, (words[0], words[2]))]
        high = [(product >> 32) & _MASK for product in products]
        low = [product & _MASK for product in products]
        words = [high[1] ^ words[1] ^ keys[0], low[1], high[0] ^ words[3] ^ keys[1], low[0]]
        keys = [(word + weyl) & _MASK for word, weyl in zip(keys, _WEYL)]
    return [word.broadcast_to((count,)) for word in words]


class Draw:
    """The uniform numbers of one draw.

    Parameters
    ----------
    state : int64 tensor, (2,)
        Key and count of draws.
    shape : tuple of int
        Of what is drawn.
    dtype : torch dtype
        The floats to compute in.
    """

    def __init__(self, state: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        self._words = philox(state[0], state[1], math.prod(self.shape))

    def words(self, which: int) -> torch.Tensor:
        """32-bit words, the first or second kind (each independent of the other)."""
        return self._words[2 * which].reshape(self.shape)

    def uniform(self, which: int = 0) -> torch.Tensor:
        """Numbers from 0 to below 1."""
        high, low = self._words[2 * which], self._words[2 * which + 1]
        if self.dtype == torch.float64:
            numbers = ((high >> 5) * 2**26 + (low >> 6)).to(torch.float64) * 2.0**-53
        else:
            numbers = (high >> 8).to(torch.float32) * 2.0**-24
        return numbers.reshape(self.shape)

    def above_zero(self, which: int = 0) -> torch.Tensor:
        """Numbers from above 0 to 1."""
        return 1 - self.uniform(which)

    def normal(self) -> torch.Tensor:
        """Normal numbers of mean 0 and deviation 1 (G. E. P. Box and M. E. Muller, 1958)."""
        radius = torch.sqrt(-2 * torch.log(self.above_zero(0)))
        return radius * torch.cos(2 * math.pi * self.uniform(1))


def _integers(draw: Draw, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """From ``low`` to below ``high``: what 63 random bits leave over, which favours none by more than span / 2**63."""
    return low + ((draw.words(0) << 31) | (draw.words(1) >> 1)) % (high - low)


# From a draw and the parameters of a distribution, in NumPy's order, to its numbers.
_DISTRIBUTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "uniform": lambda draw, low, high: low + (high - low) * draw.uniform(),
    "normal": lambda draw, mean, deviation: mean + deviation * draw.normal(),
    "halfnormal": lambda draw, start, scale: start + scale * draw.normal().abs(),
    "lognormal": lambda draw, mean, deviation: torch.exp(mean + deviation * draw.normal()),
    "exponential": lambda draw, scale: -scale * torch.log(draw.above_zero()),
    "laplace": lambda draw, place, scale: (
        place + scale * (torch.log(draw.above_zero(0)) - torch.log(draw.above_zero(1)))
    ),
    "logistic": lambda draw, place, scale: place + scale * torch.logit(draw.uniform() * (1 - 2.0**-23) + 2.0**-24),
    "gumbel": lambda draw, place, scale: place - scale * torch.log(-torch.log(draw.above_zero() * (1 - 2.0**-24))),
    "cauchy": lambda draw, place, scale: place + scale * torch.tan(math.pi * (draw.uniform() - 0.5)),
    "bernoulli": lambda draw, p: draw.uniform() < p,
    "integers": _integers,
}


@lower.register(RandomVariable)
def _lower_random(op: Any, node: Apply, target: Target) -> Lowering:
    distribution = _distribution(op, node)
    dtype = torch_dtype(node.outputs[1])
    working = dtype if dtype in (torch.float32, torch.float64) else torch.float32

    def draw(state: torch.Tensor, size: Any, *parameters: Any) -> list[torch.Tensor]:
        tensors = [target.tensor(parameter) for parameter in parameters]
        wanted = np.asarray(size) if size is not None else np.zeros(0)
        shape = integers(wanted) if wanted.size or _has_size(node) else ()
        shape = torch.broadcast_shapes(shape, *(tensor.shape for tensor in tensors))
        numbers = distribution(Draw(state, shape, working), *tensors)
        # Made anew, not counted up in place: the old state may be read elsewhere.
        return [state + torch.arange(2, device=state.device), numbers.broadcast_to(shape).to(dtype)]

    return Lowering(draw, frozenset({1}))


def _has_size(node: Apply) -> bool:
    return getattr(node.inputs[1].type, "ndim", 0) == 1


def _distribution(op: Any, node: Apply) -> Callable[..., torch.Tensor]:
    if op.name == "binomial":
        count = node.inputs[2]
        while count.owner is not None and count.owner.inputs:
            count = count.owner.inputs[0]
        if isinstance(count, Constant) and np.all(count.data == 1):
            return lambda draw, n, p: draw.uniform() < p
        raise UnsupportedOp(node, "binomial numbers are drawn of one trial only")
    if op.name not in _DISTRIBUTIONS:
        raise UnsupportedOp(node, f"numbers are drawn from {', '.join(sorted(_DISTRIBUTIONS))}")
    return _DISTRIBUTIONS[op.name]
