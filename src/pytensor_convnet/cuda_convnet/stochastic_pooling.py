"""Stochastic pooling of c01b images, under pylearn2's names.

Training draws one pixel of each window, each as probable as its share of the window's sum (`StochasticMaxPool`);
testing takes the mean of the pixels with the same weights (`WeightedMaxPool`). After M. Zeiler and R. Fergus,
"Stochastic pooling for regularization of deep convolutional neural networks" (2013), equations 4 to 6. Activations
are meant to be those of rectifiers: negative ones count as zero, and a window without a positive one gives zero.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.random.basic import UniformRV

from pytensor_convnet.cuda_convnet.layouts import from_bc01
from pytensor_convnet.cuda_convnet.pooling import Pool
from pytensor_convnet.ops.pooling import AveragePool2d, MaxPool2dGather, pooled_lengths
from pytensor_convnet.ops.stochastic_pooling import DrawWinners2d


@dataclass(frozen=True)
class StochasticMaxPool(Pool):
    """A pixel of each window, drawn in proportion: ``StochasticMaxPool(ds, stride, start, outputs, seed)(images)``.

    Parameters
    ----------
    ds, stride, start, outputs
        See `Pool`.
    seed : int
        What the draws start from; the same seed, the same draws. Each call of a compiled function draws anew. Layers of
        one network want seeds of their own.
    rng : shared generator or stream, optional
        Draw from this instead: a `pytensor.shared` of a `numpy.random.Generator`, which is given the
        ``default_update`` to its next state; or anything with a method ``uniform(size=, dtype=)``.

    Notes
    -----
    The name and the arguments are those of ``pylearn2.sandbox.cuda_convnet.stochastic_pool``. The gradient goes to the
    pixel that was drawn.

    Examples
    --------
    >>> import numpy as np, pytensor
    >>> from pytensor_convnet.cuda_convnet import StochasticMaxPool
    >>> pooled = StochasticMaxPool(ds=2, stride=2, seed=3)(np.array([0.0, 1.0, 0.0, 3.0]).reshape(1, 2, 2, 1))
    >>> draw = pytensor.function([], pooled)
    >>> draws = [draw().item() for _ in range(100)]
    >>> sorted(set(draws)), 60 < draws.count(3.0) < 90  # three times as probable as 1
    ([1.0, 3.0], True)
    """

    seed: int = 1234
    rng: Any = None

    def __call__(self, images: Any) -> Variable:
        """The pixels drawn.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)

        Returns
        -------
        tensor of shape (channels, output rows, output columns, batch)

        Raises
        ------
        ValueError
            If no window fits.
        """
        bc01, windows = self.windows(images)
        shape = pooled_shape(bc01, windows)
        draws = uniforms(shape, bc01.type.dtype, self.seed, self.rng)
        winners = DrawWinners2d()(bc01, draws, *windows)
        return from_bc01(MaxPool2dGather()(pt.maximum(bc01, 0), winners, *windows))


class WeightedMaxPool(Pool):
    """The mean of each window, weighted by the pixels themselves: ``WeightedMaxPool(ds, stride, start)(images)``.

    What `StochasticMaxPool` gives on average: for testing.

    Parameters
    ----------
    ds, stride, start, outputs
        See `Pool`.

    Examples
    --------
    >>> import numpy as np
    >>> from pytensor_convnet.cuda_convnet import WeightedMaxPool
    >>> images = np.array([0.0, 1.0, 0.0, 3.0]).reshape(1, 2, 2, 1)
    >>> WeightedMaxPool(ds=2, stride=2)(images).eval().item()  # (1 * 1 + 3 * 3) / (1 + 3)
    2.5
    """

    def __call__(self, images: Any) -> Variable:
        """The weighted means.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)

        Returns
        -------
        tensor of shape (channels, output rows, output columns, batch)

        Raises
        ------
        ValueError
            If no window fits.
        """
        bc01, windows = self.windows(images)
        positive, total = pt.maximum(bc01, 0), AveragePool2d("sum", ignore_border=False)
        sums = total(positive, *windows)
        return from_bc01(total(positive**2, *windows) / pt.switch(sums > 0, sums, 1))


def stochastic_max_pool_c01b(
    c01b: Any, pool_shape: Any, pool_stride: Any, start: Any = 0, seed: int = 1234, rng: Any = None
) -> Variable:
    """`StochasticMaxPool` as a function.

    Parameters
    ----------
    c01b : tensor of shape (channels, rows, columns, batch)
    pool_shape, pool_stride : int or (int, int)
        The window and how far windows lie apart.
    start : int or (int, int)
        Where the first window starts.
    seed, rng
        See `StochasticMaxPool`.

    Returns
    -------
    tensor of shape (channels, output rows, output columns, batch)

    Raises
    ------
    ValueError
        If no window fits.
    """
    return StochasticMaxPool(pool_shape, pool_stride, start, seed=seed, rng=rng)(c01b)


def weighted_max_pool_c01b(c01b: Any, pool_shape: Any, pool_stride: Any, start: Any = 0) -> Variable:
    """`WeightedMaxPool` as a function.

    Parameters
    ----------
    c01b : tensor of shape (channels, rows, columns, batch)
    pool_shape, pool_stride : int or (int, int)
        The window and how far windows lie apart.
    start : int or (int, int)
        Where the first window starts.

    Returns
    -------
    tensor of shape (channels, output rows, output columns, batch)

    Raises
    ------
    ValueError
        If no window fits.
    """
    return WeightedMaxPool(pool_shape, pool_stride, start)(c01b)


def pooled_shape(bc01: Variable, windows: tuple[Any, Any, Any]) -> list[Any]:
    """The bc01 shape of what these windows pool, partial ones included; ints where they are known."""
    lengths = [bc01.shape[i] if known is None else known for i, known in enumerate(bc01.type.shape)]
    return [*lengths[:2], *pooled_lengths(lengths, windows, ignore_border=False)]


def uniforms(shape: list[Any], dtype: str, seed: int, rng: Any) -> Variable:
    """Numbers between 0 and 1, from ``rng`` if there is one, else from a new generator of this seed.

    Parameters
    ----------
    shape : list of int or symbolic scalar
    dtype : {'float32', 'float64'}
    seed : int
    rng : shared generator or stream, optional
        See `StochasticMaxPool`.

    Returns
    -------
    tensor of ``shape``

    Raises
    ------
    ValueError
        If ``rng`` cannot draw.
    """
    if hasattr(rng, "uniform") and not isinstance(rng, Variable):
        return rng.uniform(size=tuple(shape), dtype=dtype)
    generator = pytensor.shared(np.random.default_rng(seed)) if rng is None else rng
    if not hasattr(generator, "default_update"):
        raise ValueError(f"rng must be a shared numpy.random.Generator or have a method uniform, got {rng!r}")
    # A generator that has drawn before goes on from where that draw left it.
    state = generator if generator.default_update is None else generator.default_update
    zero, one = np.array(0, dtype), np.array(1, dtype)
    size = pt.stack([pt.as_tensor(length, dtype="int64") for length in shape])
    next_state, draws = UniformRV(dtype=dtype).make_node(state, size, zero, one).outputs
    with warnings.catch_warnings():
        # PyTensor 3 means to do without default updates one day; until then only they let every function draw anew.
        warnings.simplefilter("ignore", DeprecationWarning)
        generator.default_update = next_state
    return draws
