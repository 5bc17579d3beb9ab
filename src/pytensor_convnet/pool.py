"""Pooling, under the names and with the arguments of ``theano.tensor.signal.pool`` and ``downsample``.

Each function pools the last two axes of a tensor of two or more; the axes before them run along.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Constant, Variable

from pytensor_convnet.ops.base import FLOATS, as_integers
from pytensor_convnet.ops.pooling import AVERAGE_MODES, MAX_DTYPES, AveragePool2d, MaxPool2d

MODES = ("max", *AVERAGE_MODES)


def pool_2d(
    input: Any,
    ws: Any = None,
    ignore_border: bool | None = None,
    stride: Any = None,
    pad: Any = (0, 0),
    mode: str = "max",
    ds: Any = None,
    st: Any = None,
    padding: Any = None,
) -> Variable:
    """Pool windows of the last two axes: keep the maximum, the average or the sum of each.

    Parameters
    ----------
    input : tensor of shape (..., rows, columns)
        Two axes or more. float32 or float64; for ``mode='max'`` also integers.
    ws : int, (int, int) or symbolic
        The window, (rows, columns). An int, a symbolic scalar, a pair of them or a symbolic vector of two.
    ignore_border : bool, optional
        Whether windows that hang over the edge are left out. None means False, as in Theano: partial windows count.
    stride : like ws, optional
        How far windows lie apart; by default ``ws``, so that they neither overlap nor leave gaps.
    pad : int, (int, int) or ((int, int), (int, int))
        Border around the images: the same everywhere, for (rows, columns), or for ((top, bottom), (left, right)).
        Must be smaller than the window.
    mode : {'max', 'sum', 'average_inc_pad', 'average_exc_pad'}
        What is kept of a window. The first average counts pixels of the border as zeros, the second does not count
        them; neither counts what hangs over it.
    ds, st, padding
        The old names of ``ws``, ``stride`` and ``pad``.

    Returns
    -------
    tensor of shape (..., output rows, output columns)
        With ``ignore_border`` an output length is ``(length + pad - ws) // stride + 1``; without it as many windows
        as cover the image, none of which starts outside it.

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other: at once where static shapes show it, else when the
        compiled function runs.

    Notes
    -----
    The border never wins a maximum; NaN does. The gradient of equal maxima goes to the first of them in row-major
    order (Theano gave it to all).

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> from pytensor_convnet import pool_2d
    >>> image = pt.as_tensor(np.arange(9.0).reshape(3, 3))
    >>> pool_2d(image, ws=(2, 2), stride=(1, 1), ignore_border=True).eval().tolist()
    [[4.0, 5.0], [7.0, 8.0]]
    >>> pool_2d(image, ws=2, ignore_border=False, mode="average_exc_pad").eval().tolist()
    [[2.0, 3.5], [6.5, 8.0]]
    """
    ws = _one_name(ws, ds, "ws", "ds")
    stride = _one_name(stride, st, "stride", "st", needed=False)
    if padding is not None:
        if not isinstance(pad, tuple) or pad != (0, 0):
            raise ValueError("pad and padding are two names of one argument: give one of them")
        pad = padding
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    images = _as_pooled_tensor(input, MAX_DTYPES if mode == "max" else FLOATS, mode)
    window = _as_pair(ws, "ws")
    windows = [window, window if stride is None else _as_pair(stride, "stride"), _as_padding(pad)]
    bc01 = _as_bc01(images)
    pooled = (
        MaxPool2d(bool(ignore_border))(bc01, *map(_stack, windows))[0]
        if mode == "max"
        else AveragePool2d(mode, bool(ignore_border))(bc01, *map(_stack, windows))
    )
    return _with_leading_axes(pooled, images)


def max_pool_2d(
    input: Any,
    ds: Any,
    ignore_border: bool | None = None,
    st: Any = None,
    padding: Any = (0, 0),
    mode: str = "max",
) -> Variable:
    """`pool_2d` under its older name and arguments (``theano.tensor.signal.downsample.max_pool_2d``).

    Parameters
    ----------
    input : tensor of shape (..., rows, columns)
        Two axes or more.
    ds : int, (int, int) or symbolic
        The window, (rows, columns).
    ignore_border : bool, optional
        Whether windows that hang over the edge are left out; None means False.
    st : like ds, optional
        The stride; by default ``ds``. Smaller than ``ds``, windows overlap.
    padding : int, (int, int) or ((int, int), (int, int))
        Border around the images.
    mode : {'max', 'sum', 'average_inc_pad', 'average_exc_pad'}
        What is kept of a window.

    Returns
    -------
    tensor of shape (..., output rows, output columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Examples
    --------
    Overlapping windows, the case this package was written for:

    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet import max_pool_2d
    >>> images = pt.tensor("images", shape=(None, 32, 32, 32), dtype="float32")
    >>> max_pool_2d(images, ds=(3, 3), st=(2, 2), ignore_border=True).type.shape
    (None, 32, 15, 15)
    """
    return pool_2d(input, ds, ignore_border, st, padding, mode)


def _one_name(new: Any, old: Any, name: str, old_name: str, *, needed: bool = True) -> Any:
    """The value of an argument that has two names."""
    if new is not None and old is not None:
        raise ValueError(f"{name} and {old_name} are two names of one argument: give one of them")
    if needed and new is None and old is None:
        raise ValueError(f"{name} is missing: the window, an integer or (rows, columns)")
    return old if new is None else new


def _as_pooled_tensor(tensor: Any, dtypes: Sequence[str], mode: str) -> Variable:
    try:
        variable = pt.as_tensor_variable(tensor)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"input must be a tensor, got {tensor!r}") from error
    if variable.type.ndim < 2:
        raise ValueError(f"input must have at least 2 axes (rows, columns) to pool, got {variable.type}")
    if variable.type.dtype not in dtypes:
        raise ValueError(
            f"input has dtype {variable.type.dtype}; mode {mode!r} takes {', '.join(dtypes)}. "
            "Cast it, for example input.astype('float32')."
        )
    return variable


def _as_pair(value: Any, name: str) -> list[Variable]:
    """An int, a symbolic scalar, a pair of them or a symbolic vector of two, as two symbolic scalars."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or a pair (rows, columns), got {value!r}")
        return [as_integers(entry, name) for entry in value]
    if isinstance(value, Variable) and value.type.ndim == 1:
        vector = as_integers(value, name, (2,))
        return [vector[0], vector[1]]
    scalar = as_integers(value, name)
    return [scalar, scalar]


def _as_padding(pad: Any) -> list[list[Variable]]:
    """Padding as ((top, bottom), (left, right)) of symbolic scalars."""
    if isinstance(pad, np.ndarray):
        pad = pad.tolist()
    nested = isinstance(pad, Sequence) and any(isinstance(side, Sequence) for side in pad)
    if not nested:
        rows, columns = _as_pair(pad, "pad")
        return [[rows, rows], [columns, columns]]
    if len(pad) != 2:
        raise ValueError(f"pad must give borders for two axes, (rows, columns), got {pad!r}")
    return [_as_pair(side, "pad") for side in pad]


def _stack(scalars: list) -> Variable:
    """(Nested) lists of symbolic scalars as one tensor; a constant if all of them are."""
    rows = [_stack(entry) if isinstance(entry, list) else entry for entry in scalars]
    if all(isinstance(row, Constant) for row in rows):
        return pt.constant(np.stack([row.data for row in rows]))
    return pt.stack(rows)


def _as_bc01(images: Variable) -> Variable:
    """Images of any number of axes as bc01: leading axes merge, or are made up."""
    leading = images.type.ndim - 2
    if leading == 2:
        return images
    if leading < 2:
        return pt.shape_padleft(images, 2 - leading)
    lengths = [images.shape[i] for i in range(images.type.ndim)]
    merged = lengths[0]
    for length in lengths[1 : leading - 1]:
        merged = merged * length
    return images.reshape((merged, *lengths[leading - 1 :]))


def _with_leading_axes(pooled: Variable, images: Variable) -> Variable:
    """Undo `_as_bc01`."""
    leading = images.type.ndim - 2
    if leading == 2:
        return pooled
    if leading < 2:
        return pooled[(0,) * (2 - leading)]
    return pooled.reshape((*(images.shape[i] for i in range(leading)), pooled.shape[2], pooled.shape[3]))
