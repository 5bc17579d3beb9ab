"""``theano.sandbox.rng_mrg``: random streams that Theano could also draw on a GPU."""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.configuration import config
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.tensor import raw_random
from pytensor_convnet.compat.theano.tensor.shared_randomstreams import RandomStreams


class MRG_RandomStreams(RandomStreams):
    """`RandomStreams` with the arguments of Theano's parallel generator.

    Parameters
    ----------
    seed : int or sequence of six ints
    use_cuda
        Has no effect, nor has ``nstreams`` of the methods.
    """

    def __init__(self, seed: Any = 12345, use_cuda: Any = None):
        super().__init__(seed)

    def gen(self, draw: Any, *args: Any, nstreams: Any = None, **kwargs: Any) -> Variable:
        """Draw by a function of `raw_random` from a stream of its own."""
        return super().gen(draw, *args, **kwargs)

    def multinomial(
        self,
        size: Any = None,
        n: Any = 1,
        pvals: Any = None,
        ndim: int | None = None,
        dtype: str = "int64",
        nstreams: Any = None,
    ) -> Variable:
        """How often each outcome occurs in ``n`` trials.

        Parameters
        ----------
        size, ndim, nstreams
            Have no effect: there is one draw for each row of ``pvals``.
        n : int
        pvals : tensor of shape (rows, outcomes)
            Probabilities.
        dtype : str

        Returns
        -------
        tensor of shape (rows, outcomes)
        """
        if pvals is None:
            raise ValueError("pvals is missing: the probabilities, one row for each draw")
        return self.gen(raw_random.multinomial, None, n, pvals, dtype=dtype)

    def choice(
        self,
        size: Any = 1,
        a: Any = None,
        replace: bool = True,
        p: Any = None,
        ndim: int | None = None,
        dtype: str = "int64",
        nstreams: Any = None,
        **kwargs: Any,
    ) -> Variable:
        """``size`` outcomes for each row of probabilities.

        Parameters
        ----------
        size : int
            How many.
        a, ndim, nstreams
            As Theano asked: None.
        replace : bool
            Whether an outcome may come again.
        p : tensor of shape (rows, outcomes)
            Probabilities.
        dtype : str

        Returns
        -------
        tensor of shape (rows, size)
        """
        if a is not None or p is None:
            raise ValueError("choice draws outcomes of rows of probabilities: give p and leave a out")
        return self.gen(_outcomes, size, p, replace, dtype)

    def multinomial_wo_replacement(
        self,
        size: Any = None,
        n: int = 1,
        pvals: Any = None,
        ndim: Any = None,
        dtype: str = "int64",
        nstreams: Any = None,
    ) -> Variable:
        """``n`` different outcomes for each row of probabilities ``pvals``."""
        return self.choice(n, None, False, pvals, dtype=dtype)

    def truncated_normal(
        self, size: Any, avg: Any = 0.0, std: Any = 1.0, ndim: Any = None, dtype: Any = None, nstreams: Any = None
    ) -> Variable:
        """Normal, drawn anew beyond two standard deviations."""
        return self.gen(_truncated_normal, size, avg, std, ndim, dtype)


def _outcomes(generator: Variable, size: Any, p: Any, replace: bool, dtype: str) -> tuple[Variable, Variable]:
    # The largest of log p plus a Gumbel variable falls on an outcome with its probability; the largest k give k
    # different ones, as if drawn one after the other.
    p = pt.as_tensor(p).astype("float64")
    draws = (p.shape[0], size, p.shape[1]) if replace else (p.shape[0], p.shape[1])
    after, uniform = raw_random.uniform(generator, draws, low=1e-300, dtype="float64")
    keys = pt.log(p[:, None, :] if replace else p) - pt.log(-pt.log(uniform))
    outcomes = pt.argmax(keys, axis=-1) if replace else pt.argsort(-keys, axis=-1)[:, :size]
    return after, outcomes.astype(dtype)


def _truncated_normal(
    generator: Variable, size: Any, avg: Any, std: Any, ndim: Any, dtype: Any
) -> tuple[Variable, Variable]:
    # By inversion: erf(sqrt(2)) is the probability of two standard deviations.
    after, uniform = raw_random.uniform(generator, size, -0.954499736103642, 0.954499736103642, ndim, dtype="float64")
    draws = avg + std * (2**0.5) * pt.erfinv(uniform)
    return after, draws.astype(config.floatX if dtype is None else dtype)


__getattr__, __dir__ = mirror(__name__)
