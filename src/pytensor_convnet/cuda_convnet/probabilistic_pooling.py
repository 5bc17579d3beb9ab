"""Probabilistic max pooling of c01b images, under pylearn2's names.

After H. Lee, R. Grosse, R. Ranganath and A. Ng, "Convolutional deep belief networks for scalable unsupervised learning
of hierarchical representations" (2009), section 3.3. Of the detection units of a block at most one is on, and the
pooling unit is on if one is: a softmax over the block's units and the case that none is on,

    h_i = exp(z_i + t) / (1 + sum_j exp(z_j + t))        p = sum_i h_i

where z are the block's inputs from below and t the pooling unit's from above.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_grad
from pytensor.graph.basic import Variable
from pytensor.raise_op import CheckAndRaise

from pytensor_convnet.cuda_convnet.layouts import as_c01b, c01b_name, from_bc01, to_bc01
from pytensor_convnet.cuda_convnet.pooling import Pool
from pytensor_convnet.cuda_convnet.stochastic_pooling import pooled_shape, uniforms
from pytensor_convnet.geometry import format_shape
from pytensor_convnet.ops.pooling import AveragePool2d, AveragePool2dGrad, MaxPool2d, MaxPool2dGrad
from pytensor_convnet.ops.stochastic_pooling import DrawWinners2d


@dataclass(frozen=True)
class ProbMaxPool:
    """Expected pooling and detection units: ``ProbMaxPool(ds, start)(images, top_down)``.

    Parameters
    ----------
    ds : int or (int, int)
        A block: so many pixels, or (rows, columns). Blocks lie side by side; the last may be smaller.
    start : int or (int, int)
        Where the first block starts: 0, or negative for a smaller first block.
    outputs : int or (int, int)
        Only 0: there are as many blocks as cover the images.

    Raises
    ------
    ValueError
        If an argument has no meaning, or some pixel would belong to no block.

    Notes
    -----
    The name and the arguments are those of ``pylearn2.sandbox.cuda_convnet.probabilistic_max_pooling``.

    Examples
    --------
    >>> import numpy as np
    >>> from pytensor_convnet.cuda_convnet import ProbMaxPool
    >>> p, h = ProbMaxPool(ds=2)(np.zeros((1, 2, 2, 1)))  # four units and the case that none is on: a fifth each
    >>> p.eval().item().__round__(3), h.eval().ravel().round(3).tolist()
    (0.8, [0.2, 0.2, 0.2, 0.2])
    """

    ds: Any
    start: Any = 0
    outputs: Any = 0

    def __post_init__(self) -> None:
        pool = self._pool()
        if max(pool.starts()) > 0 or self.outputs != 0:
            raise ValueError(
                f"start must not be positive and outputs must be 0, got start {self.start!r} and outputs "
                f"{self.outputs!r}: each detection unit belongs to a block."
            )

    def _pool(self) -> Pool:
        return Pool(self.ds, self.ds, self.start)

    def __call__(self, images: Any, top_down: Any = None) -> list[Variable]:
        """The probabilities that units are on.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
            What detection units receive from below.
        top_down : tensor of shape (channels, output rows, output columns, batch), optional
            What pooling units receive from above; by default nothing.

        Returns
        -------
        p : tensor of shape (channels, output rows, output columns, batch)
            Of the pooling units.
        h : tensor of the shape of ``images``
            Of the detection units.

        Raises
        ------
        ValueError
            If the shapes do not fit each other.
        """
        on, off, windows = self._weights(images, top_down)
        sums = AveragePool2d("sum", ignore_border=False)(on, *windows)
        return [from_bc01(sums / (off + sums)), from_bc01(on / spread(off + sums, on, windows))]

    def sample(self, images: Any, top_down: Any = None, seed: int = 1234, rng: Any = None) -> list[Variable]:
        """Units drawn by these probabilities: each 0 or 1.

        Parameters
        ----------
        images, top_down
            As above.
        seed, rng
            What decides; see `StochasticMaxPool`.

        Returns
        -------
        p_sample, h_sample : tensors of the shapes of p and h
            Of a block whose pooling unit is on, one detection unit is. They have no gradients.

        Raises
        ------
        ValueError
            If the shapes do not fit each other.
        """
        on, off, windows = self._weights(images, top_down)
        sums = AveragePool2d("sum", ignore_border=False)(on, *windows)
        draws = uniforms([2, *pooled_shape(on, windows)], on.type.dtype, seed, rng)
        p_sample = (draws[0] * (off + sums) < sums).astype(on.type.dtype)
        winners = DrawWinners2d()(on, draws[1], *windows)
        h_sample = MaxPool2dGrad()(winners, p_sample, on.shape[2], on.shape[3], *windows)
        return [from_bc01(p_sample), from_bc01(h_sample)]

    def _weights(self, images: Any, top_down: Any) -> tuple[Variable, Variable, tuple[Any, Any, Any]]:
        """How probable each detection unit is, beside the case that none of its block is on; both bc01.

        Both are divided by the greatest of a block, so that no exponential overflows. What they are divided by cancels:
        it is a constant to gradients.
        """
        z, windows = self._pool().windows(images)
        t = pt.constant(0, dtype=z.type.dtype) if top_down is None else _checked(top_down, pooled_shape(z, windows))
        greatest = disconnected_grad(pt.maximum(MaxPool2d(ignore_border=False)(z, *windows)[0] + t, 0))
        return pt.exp(z + spread(t - greatest, z, windows)), pt.exp(-greatest), windows


def _checked(top_down: Any, shape: list[Any]) -> Variable:
    """``top_down`` as bc01; a ValueError, at once or when the function runs, if it is not of the pooled bc01 shape."""
    c01b = as_c01b(top_down, "top_down")
    expected = [*shape[1:], shape[0]]
    rule = "top_down must have the shape of the pooling units, (channels, output rows, output columns, batch)"
    known = [int(length) if isinstance(length, int | np.integer) else None for length in expected]
    if any(a is not None and b is not None and a != b for a, b in zip(c01b.type.shape, known)):
        raise ValueError(f"{rule}, which is {format_shape(known)}: it is {c01b_name(c01b)}.")
    fits = [pt.eq(c01b.shape[axis], length) for axis, length in enumerate(expected)]
    return to_bc01(CheckAndRaise(ValueError, f"{rule}.")(c01b, *fits))


def spread(pooled: Variable, like: Variable, windows: tuple[Any, Any, Any]) -> Variable:
    """Each value of bc01 ``pooled`` at all pixels of its block."""
    op = AveragePool2dGrad("sum", ignore_border=False)
    return op(pooled, like.shape[2], like.shape[3], *windows)


def prob_max_pool_c01b(c01b: Any, pool_shape: Any, top_down: Any = None) -> list[Variable]:
    """`ProbMaxPool` as a function.

    Parameters
    ----------
    c01b : tensor of shape (channels, rows, columns, batch)
    pool_shape : int or (int, int)
        A block.
    top_down : tensor of shape (channels, output rows, output columns, batch), optional
        What pooling units receive from above.

    Returns
    -------
    p, h
        As of `ProbMaxPool`.

    Raises
    ------
    ValueError
        If the shapes do not fit each other.
    """
    return ProbMaxPool(pool_shape)(c01b, top_down)
