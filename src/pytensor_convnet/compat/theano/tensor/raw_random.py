"""``theano.tensor.raw_random``: draws from a generator, one function a distribution.

Each takes a random generator variable and returns (the generator afterwards, the draws). ``size`` is the shape of the
draws, as a tuple of ints and symbolic scalars or a symbolic vector; without it, that of the parameters. ``ndim`` is its
length, where that cannot be seen.
"""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.random import basic as _draws

from pytensor_convnet.compat.configuration import config
from pytensor_convnet.compat.mirror import mirror

Drawn = tuple[Variable, Variable]


def _size(size: Any, ndim: int | None) -> Any:
    if isinstance(size, Variable) and size.type.ndim == 1 and ndim is not None:
        return [size[axis] for axis in range(ndim)]
    if isinstance(size, Variable) and size.type.ndim == 0:
        return [size]
    return [size] if isinstance(size, int) else size


def _draw(op: Any, generator: Variable, *parameters: Any, size: Any, **settings: Any) -> Drawn:
    after, draws = op(*parameters, size=size, rng=generator, return_next_rng=True, **settings)
    return after, draws


def uniform(
    random_state: Variable,
    size: Any = None,
    low: Any = 0.0,
    high: Any = 1.0,
    ndim: int | None = None,
    dtype: str | None = None,
) -> Drawn:
    """Uniform between ``low`` and ``high``; by default of dtype ``theano.config.floatX``."""
    floats = config.floatX if dtype in (None, "floatX") else dtype
    return _draw(_draws.uniform, random_state, low, high, size=_size(size, ndim), dtype=floats)


def normal(
    random_state: Variable,
    size: Any = None,
    avg: Any = 0.0,
    std: Any = 1.0,
    ndim: int | None = None,
    dtype: str | None = None,
) -> Drawn:
    """Normal with mean ``avg`` and standard deviation ``std``; by default of dtype ``theano.config.floatX``."""
    floats = config.floatX if dtype in (None, "floatX") else dtype
    return _draw(_draws.normal, random_state, avg, std, size=_size(size, ndim), dtype=floats)


def binomial(
    random_state: Variable,
    size: Any = None,
    n: Any = 1,
    p: Any = 0.5,
    ndim: int | None = None,
    dtype: str = "int64",
    prob: Any = None,
) -> Drawn:
    """Successes in ``n`` trials of probability ``p`` (``prob`` is its old name)."""
    p = pt.as_tensor(p if prob is None else prob)
    if isinstance(n, int) and n == 1:  # masks of dropout: comparing is several times as fast as counting
        shape = p.shape if size is None and p.ndim else size
        after, draws = uniform(random_state, shape, ndim=ndim, dtype="float64")
        return after, pt.lt(draws, p).astype(dtype)
    after, draws = _draw(_draws.binomial, random_state, n, p, size=_size(size, ndim))
    return after, draws.astype(dtype)


def random_integers(
    random_state: Variable,
    size: Any = None,
    low: Any = 0,
    high: Any = 1,
    ndim: int | None = None,
    dtype: str = "int64",
) -> Drawn:
    """Integers from ``low`` to ``high``, both included."""
    after, draws = _draw(_draws.integers, random_state, low, pt.as_tensor(high) + 1, size=_size(size, ndim))
    return after, draws.astype(dtype)


def choice(
    random_state: Variable,
    size: Any = None,
    a: Any = 2,
    replace: bool = True,
    p: Any = None,
    ndim: int | None = None,
    dtype: str = "int64",
) -> Drawn:
    """Entries of ``a`` (or, of an integer, of the integers below it), with probabilities ``p`` or all alike."""
    options = pt.as_tensor(a)
    after, draws = _draw(_draws.choice, random_state, options, size=_size(size, ndim), replace=replace, p=p)
    return after, draws.astype(dtype)


def poisson(
    random_state: Variable, size: Any = None, lam: Any = 1.0, ndim: int | None = None, dtype: str = "int64"
) -> Drawn:
    """Counts with mean ``lam``."""
    after, draws = _draw(_draws.poisson, random_state, lam, size=_size(size, ndim))
    return after, draws.astype(dtype)


def permutation(
    random_state: Variable, size: Any = None, n: Any = 1, ndim: int | None = None, dtype: str = "int64"
) -> Drawn:
    """The integers below ``n`` in random order, along a last axis."""
    shape = _size(size, ndim)
    if isinstance(shape, Variable):
        shape = [shape[axis] for axis in range(pt.get_vector_length(shape))]
    after, keys = uniform(random_state, [*(shape or ()), n], dtype="float64")
    return after, pt.argsort(keys, axis=-1).astype(dtype)


def multinomial(
    random_state: Variable,
    size: Any = None,
    n: Any = 1,
    pvals: Any = (0.5, 0.5),
    ndim: int | None = None,
    dtype: str = "int64",
) -> Drawn:
    """How often each outcome occurs in ``n`` trials; outcomes, with probabilities ``pvals``, lie along a last axis."""
    p = pt.as_tensor(pvals).astype("float64")
    p = p / pt.sum(p, axis=-1, keepdims=True)  # rounded in float32, they may sum to more than 1
    after, draws = _draw(_draws.multinomial, random_state, n, p, size=_size(size, ndim))
    return after, draws.astype(dtype)


__getattr__, __dir__ = mirror(__name__)
