"""``theano.tensor.nnet.neighbours``: windows of images as rows of a matrix, and back."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.raise_op import Assert

from pytensor_convnet.compat.mirror import mirror

MODES = ("valid", "ignore_borders", "wrap_centered", "half", "full")


def images2neibs(ten4: Any, neib_shape: Sequence[Any], neib_step: Sequence[Any] | None = None, mode: str = "valid"):
    """Slide a window over images; each place gives a row.

    Parameters
    ----------
    ten4 : tensor of shape (n, m, rows, columns)
        Images.
    neib_shape : (rows, columns)
        The window; ints or symbolic.
    neib_step : (rows, columns), optional
        How far it moves; by default by itself.
    mode : {'valid', 'ignore_borders', 'wrap_centered', 'half', 'full'}
        Windows inside the image, which they must exhaust ('valid') or need not ('ignore_borders'); windows around
        every ``neib_step``-th pixel, for which the image goes on from the other side ('wrap_centered', for windows of
        odd lengths); or 'valid' after padding with zeros by half a window, or by a window less one.

    Returns
    -------
    matrix of shape (n * m * windows, window rows * window columns)

    Raises
    ------
    ValueError
        For an unknown mode.

    Examples
    --------
    >>> import numpy as np
    >>> images2neibs(np.arange(16.0).reshape(1, 1, 4, 4), (2, 2)).eval()[:2].tolist()
    [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    images = pt.as_tensor_variable(ten4)
    if images.ndim != 4:
        raise ValueError(f"ten4 must have 4 axes (n, m, rows, columns), got {images.type}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    step = neib_shape if neib_step is None else neib_step
    if mode in ("half", "full"):
        images = _padded(images, [size // 2 if mode == "half" else size - 1 for size in (neib_shape[0], neib_shape[1])])
    taps = []
    for axis in range(2):
        taps.append(_positions(images.shape[axis + 2], neib_shape[axis], step[axis], mode))
    rows, columns = taps
    windows = images[:, :, rows][:, :, :, :, columns]  # n, m, places, window rows, places, window columns
    return windows.dimshuffle(0, 1, 2, 4, 3, 5).reshape((-1, rows.shape[1] * columns.shape[1]))


def _positions(length: Variable, size: Any, step: Any, mode: str) -> Variable:
    """Which pixels of an axis each window reads: a matrix of (places, size)."""
    taps = pt.arange(size)[None, :]
    if mode == "wrap_centered":
        places = pt.arange((length + step - 1) // step)[:, None] * step
        return (places + taps - size // 2) % length
    if mode != "ignore_borders":
        fits = pt.and_(pt.ge(length, size), pt.eq((length - size) % step, 0))
        length = Assert("images2neibs: windows must exhaust the image in mode 'valid'; else use 'ignore_borders'")(
            length, fits
        )
    return pt.arange((length - size) // step + 1)[:, None] * step + taps


def _padded(images: Variable, margins: list[Any]) -> Variable:
    rows, columns = images.shape[2], images.shape[3]
    zeros = pt.zeros(
        (images.shape[0], images.shape[1], rows + 2 * margins[0], columns + 2 * margins[1]), dtype=images.dtype
    )
    inside = zeros[:, :, margins[0] : margins[0] + rows, margins[1] : margins[1] + columns]
    return pt.set_subtensor(inside, images)


def neibs2images(neibs: Any, neib_shape: Sequence[Any], original_shape: Sequence[Any], mode: str = "valid") -> Variable:
    """Undo `images2neibs` for windows that neither overlap nor leave gaps.

    Parameters
    ----------
    neibs : matrix of shape (n * m * windows, window rows * window columns)
    neib_shape : (rows, columns)
        The window.
    original_shape : (n, m, rows, columns)
        The shape of the images.
    mode : {'valid', 'ignore_borders'}
        As it was for `images2neibs`; borders that were ignored become zeros.

    Returns
    -------
    tensor of shape (n, m, rows, columns)
    """
    if mode not in ("valid", "ignore_borders"):
        raise ValueError(f"mode must be 'valid' or 'ignore_borders', got {mode!r}")
    neibs = pt.as_tensor_variable(neibs)
    n, m, rows, columns = (original_shape[axis] for axis in range(4))
    down, across = rows // neib_shape[0], columns // neib_shape[1]
    windows = neibs.reshape((n, m, down, across, neib_shape[0], neib_shape[1]))
    images = windows.dimshuffle(0, 1, 2, 4, 3, 5).reshape((n, m, down * neib_shape[0], across * neib_shape[1]))
    if mode == "valid":
        return images
    zeros = pt.zeros((n, m, rows, columns), dtype=neibs.dtype)
    return pt.set_subtensor(zeros[:, :, : down * neib_shape[0], : across * neib_shape[1]], images)


def Images2Neibs(mode: str = "valid") -> Any:
    """The Op's name in Theano: gives `images2neibs` with this mode."""
    return lambda ten4, neib_shape, neib_step=None: images2neibs(ten4, neib_shape, neib_step, mode)


__getattr__, __dir__ = mirror(__name__)
