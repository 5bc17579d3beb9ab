"""Max pooling of c01b images under cuda-convnet's names, with its gradients.

Windows start at ``start``, lie ``stride`` apart, and there are as many as cover the images: the last may hang over the
edge, and so may the first if ``start`` is negative. What is outside never wins. With ``outputs`` there are just so
many windows along each axis, and pixels beyond the last are left out. This is the pooling of A. Krizhevsky's
cuda-convnet (2011), whose ``layer.py`` computes ``outputs = ceil((length - start - ds) / stride) + 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.cuda_convnet.acts import length_of
from pytensor_convnet.cuda_convnet.errors import in_c01b_terms
from pytensor_convnet.cuda_convnet.layouts import as_c01b, c01b_name, from_bc01, to_bc01
from pytensor_convnet.geometry import Pair, as_count, as_pair
from pytensor_convnet.ops.pooling import MaxPool2d, MaxPool2dGather


@dataclass(frozen=True)
class Pool:
    """Windows that slide over c01b images: what all pooling here shares.

    Parameters
    ----------
    ds : int or (int, int)
        The window: so many pixels, or (rows, columns).
    stride : int or (int, int)
        How far windows lie apart; smaller than ``ds``, they overlap.
    start : int or (int, int)
        Where the first window starts. Positive, the pixels before it are left out; negative, but greater than
        ``-ds``, the window hangs over the edge.
    outputs : int or (int, int)
        How many windows there are; 0 for as many as cover the images.

    Raises
    ------
    ValueError
        If an argument has no meaning.
    """

    ds: Any
    stride: Any
    start: Any = 0
    outputs: Any = 0

    def __post_init__(self) -> None:
        window = as_pair(self.ds, "ds", least=1)
        as_pair(self.stride, "stride", least=1)
        as_pair(self.outputs, "outputs", least=0)
        for size, start in zip(window, self.starts()):
            if start <= -size:
                raise ValueError(
                    f"start must be greater than -ds, got start {self.start!r} with ds {self.ds!r}: "
                    "the first window would lie outside the images."
                )

    def starts(self) -> Pair:
        """Row and column of the first window."""
        starts = self.start if isinstance(self.start, Sequence) else (self.start, self.start)
        if len(starts) != 2:
            raise ValueError(f"start must be an integer or a pair (rows, columns) of integers, got {self.start!r}")
        # The least is no limit, only what `as_count` asks for.
        rows, columns = (as_count(start, "start", least=-(2**31)) for start in starts)
        return rows, columns

    def windows(self, images: Any) -> tuple[Variable, tuple[Any, Any, Any]]:
        """The pixels that windows cover, as a bc01 view, and the window, stride and padding of bc01 pooling.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)

        Returns
        -------
        bc01 : tensor of shape (batch, channels, rows, columns)
            Those of the pixels that come neither before the first window nor after the last of ``outputs``.
        windows : (window, stride, padding)
            As the pooling Ops take them, for pooling that keeps partial windows.

        Raises
        ------
        ValueError
            If static shapes show that the windows do not fit.
        """
        images = as_c01b(images, "images")
        (top, bottom, rows), (left, right, columns) = (self._axis(images, axis) for axis in range(2))
        bc01 = to_bc01(images)
        if (rows, columns) != (slice(0, None), slice(0, None)):
            bc01 = bc01[:, :, rows, columns]
        window, stride = as_pair(self.ds, "ds", least=1), as_pair(self.stride, "stride", least=1)
        return bc01, (window, stride, _stacked([[top, bottom], [left, right]]))

    def _axis(self, images: Variable, axis: int) -> tuple[int, Any, slice]:
        """Along rows or columns: how far the first and the last window hang over the edges, and what is covered."""
        window, stride = as_pair(self.ds, "ds", least=1)[axis], as_pair(self.stride, "stride", least=1)[axis]
        start, count = self.starts()[axis], as_pair(self.outputs, "outputs", least=0)[axis]
        self._check(images, axis, start + max(count - 1, 0) * stride)
        before, begin = max(-start, 0), max(start, 0)
        if not count:
            return before, 0, slice(begin, None)
        length, end = length_of(images, axis + 1), start + (count - 1) * stride + window
        if not isinstance(length, int):
            return before, pt.maximum(end - length, 0), slice(begin, end)
        return before, max(end - length, 0), slice(begin, end if end < length else None)

    def _check(self, images: Variable, axis: int, last: int) -> None:
        """Raise a ValueError if the last window that is asked for is known to start outside the images."""
        length, name = images.type.shape[axis + 1], ("rows", "columns")[axis]
        if length is not None and last >= length:
            raise ValueError(
                f"ds {self.ds}, stride {self.stride}, start {self.start} and outputs {self.outputs} put a window at "
                f"{last}, outside the {length} {name} of images {c01b_name(images)} (channels x rows x columns x "
                "batch): each window must hold a pixel."
            )


def _stacked(padding: Sequence[Sequence[Any]]) -> Any:
    """Padding as a constant if it is, else as a symbolic matrix."""
    if all(isinstance(side, int) for sides in padding for side in sides):
        return np.array(padding)
    return pt.stack([pt.stack([pt.as_tensor(side, dtype="int64") for side in sides]) for sides in padding])


class MaxPool(Pool):
    """The maximum of each window: ``MaxPool(ds, stride, start, outputs)(images)``.

    Parameters
    ----------
    ds, stride, start, outputs
        See `Pool`.

    Notes
    -----
    The name and the arguments are those of ``pylearn2.sandbox.cuda_convnet.pool``. There, images had to be square and
    the gradient needed a multiple of 16 channels. cuda-convnet's gradient went to every pixel that equals the maximum;
    here it goes whole to the first of them in row-major order.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import MaxPool
    >>> images = pt.tensor("images", shape=(32, 32, 32, 128), dtype="float32")
    >>> MaxPool(ds=3, stride=2)(images).type.shape  # ceil((32 - 3) / 2) + 1
    (32, 16, 16, 128)
    """

    def __call__(self, images: Any) -> Variable:
        """The maxima.

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
        return from_bc01(MaxPool2d(ignore_border=False)(bc01, *windows)[0])


class MaxPoolGrad(Pool):
    """The gradient of `MaxPool`: ``MaxPoolGrad(ds, stride, start, outputs)(images, maxout, gz)``.

    Parameters
    ----------
    ds, stride, start, outputs
        See `Pool`.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import MaxPool, MaxPoolGrad
    >>> images = pt.as_tensor(np.arange(9.0).reshape(1, 3, 3, 1))
    >>> maxima = MaxPool(ds=2, stride=2)(images)
    >>> MaxPoolGrad(ds=2, stride=2)(images, maxima, np.ones((1, 2, 2, 1))).eval()[0, :, :, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """

    def __call__(self, images: Any, maxout: Any, gz: Any) -> Variable:
        """``gz``, each value at the pixel that won its window.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
        maxout : tensor
            The maxima. Not used: winners are told from the images, and found once for maxima and gradient.
        gz : tensor of shape (channels, output rows, output columns, batch)
            The gradient for the maxima.

        Returns
        -------
        tensor of shape (channels, rows, columns, batch)

        Raises
        ------
        ValueError
            If the shapes do not fit each other.
        """
        images, gz = as_c01b(images, "images"), as_c01b(gz, "gz")
        maxima = MaxPool(self.ds, self.stride, self.start, self.outputs)(images)
        with in_c01b_terms(images=images, gz=gz):
            return pytensor.grad(None, images, known_grads={maxima: gz})


class MaxPoolRop(Pool):
    """How maxima change with the images: ``MaxPoolRop(ds, stride, start, outputs)(images, evals)``.

    Parameters
    ----------
    ds, stride, start, outputs
        See `Pool`.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import MaxPoolRop
    >>> images = pt.as_tensor(np.arange(4.0).reshape(1, 2, 2, 1))
    >>> MaxPoolRop(ds=2, stride=2)(images, 10 * images).eval().tolist()
    [[[[30.0]]]]
    """

    def __call__(self, images: Any, evals: Any) -> Variable:
        """The directional derivative of the maxima.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
        evals : tensor of the same shape
            The direction.

        Returns
        -------
        tensor of shape (channels, output rows, output columns, batch)

        Raises
        ------
        ValueError
            If no window fits.
        """
        images, evals = as_c01b(images, "images"), as_c01b(evals, "evals")
        bc01, windows = self.windows(images)
        directions, _ = self.windows(evals)
        winners = MaxPool2d(ignore_border=False)(bc01, *windows)[1]
        with in_c01b_terms(images=images, evals=evals):
            return from_bc01(MaxPool2dGather()(directions, winners, *windows))


def max_pool_c01b(c01b: Any, pool_shape: Any, pool_stride: Any, start: Any = 0) -> Variable:
    """`MaxPool` as a function.

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

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import max_pool_c01b
    >>> images = pt.tensor("images", shape=(32, 32, 32, 128), dtype="float32")
    >>> max_pool_c01b(images, (3, 3), (2, 2)).type.shape
    (32, 16, 16, 128)
    """
    return MaxPool(pool_shape, pool_stride, start)(c01b)
