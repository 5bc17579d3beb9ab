"""``theano.tensor.signal.pool``: pooling in two and three dimensions."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

import pytensor_convnet as ours
from pytensor_convnet import geometry
from pytensor_convnet.compat.mirror import mirror, warn_of_old_argument
from pytensor_convnet.ops import MaxPool2d, MaxPool2dGrad

_BORDER_WARNING = (
    "{function} keeps partial windows unless told otherwise (ignore_border=False): say which, as cuDNN's pooling, and "
    "other libraries, ignore them (ignore_border=True)."
)


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
    """`pytensor_convnet.pool_2d`, and Theano's warnings.

    Parameters
    ----------
    input, ws, ignore_border, stride, pad, mode
        As for `pytensor_convnet.pool_2d`.
    ds, st, padding
        The old names of ``ws``, ``stride`` and ``pad``: warned about.

    Returns
    -------
    tensor of shape (..., output rows, output columns)
    """
    ws, stride, pad = _by_new_names("pool_2d", ws, stride, pad, ds, st, padding)
    if ignore_border is None:
        warnings.warn(_BORDER_WARNING.format(function="pool_2d"), stacklevel=2)
    return ours.pool_2d(input, ws, bool(ignore_border), stride, pad, mode)


def _by_new_names(function: str, ws: Any, stride: Any, pad: Any, ds: Any, st: Any, padding: Any) -> tuple:
    if ds is not None:
        ws = _one_of(function, ws, "ws", ds, "ds", ws is not None)
    if st is not None:
        stride = _one_of(function, stride, "stride", st, "st", stride is not None)
    if padding is not None:
        pad = _one_of(function, pad, "pad", padding, "padding", any(pad) if isinstance(pad, tuple) else True)
    return ws, stride, pad


def _one_of(function: str, new: Any, new_name: str, old: Any, old_name: str, both: bool) -> Any:
    if both:
        raise ValueError(f"{new_name} and {old_name} are two names of one argument of {function}: give one of them")
    warn_of_old_argument(function, old_name, new_name)
    return old


def pool_3d(
    input: Any,
    ws: Any = None,
    ignore_border: bool | None = None,
    stride: Any = None,
    pad: Any = (0, 0, 0),
    mode: str = "max",
    ds: Any = None,
    st: Any = None,
    padding: Any = None,
) -> Variable:
    """Pool windows of the last three axes: keep the maximum, the average or the sum of each.

    Parameters
    ----------
    input : tensor of shape (..., depth, rows, columns)
    ws, stride, pad : sequences of 3 ints or symbolic scalars
        Window, stride (by default the window) and border, as for `pytensor_convnet.pool_2d`.
    ignore_border, mode
        As for `pytensor_convnet.pool_2d`.
    ds, st, padding
        The old names of ``ws``, ``stride`` and ``pad``: warned about.

    Returns
    -------
    tensor of shape (..., output depth, output rows, output columns)

    Raises
    ------
    ValueError
        If arguments or shapes do not fit each other.

    Notes
    -----
    A box is pooled by pooling its planes and then its depth: maxima, sums, and how many pixels are averaged, all
    separate.
    """
    ws, stride, pad = _by_new_names("pool_3d", ws, stride, pad, ds, st, padding)
    if ignore_border is None:
        warnings.warn(_BORDER_WARNING.format(function="pool_3d"), stacklevel=2)
    volumes = pt.as_tensor_variable(input)
    if volumes.ndim < 3:
        raise ValueError(f"input must have at least 3 axes (depth, rows, columns) to pool, got {volumes.type}")
    ws, stride, pad = (_triple(value, name) for value, name in ((ws, "ws"), (stride or ws, "stride"), (pad, "pad")))
    planes = ours.pool_2d(volumes, ws[1:], bool(ignore_border), stride[1:], pad[1:], mode)
    # depth, rows, columns -> rows * columns, depth: pooled over depth alone, with a window of one column
    rows_and_columns = [planes.shape[axis] for axis in range(planes.ndim - 2, planes.ndim)]
    leading = [planes.shape[axis] for axis in range(planes.ndim - 3)]
    flat = planes.reshape((*leading, planes.shape[planes.ndim - 3], rows_and_columns[0] * rows_and_columns[1]))
    pooled = ours.pool_2d(flat, (ws[0], 1), bool(ignore_border), (stride[0], 1), (pad[0], 0), mode)
    return pooled.reshape((*leading, pooled.shape[pooled.ndim - 2], *rows_and_columns))


def _triple(value: Any, name: str) -> tuple[Any, Any, Any]:
    if isinstance(value, int):
        return value, value, value
    if value is None or (isinstance(value, Sequence) and len(value) != 3):
        raise ValueError(f"{name} must give depth, rows and columns, got {value!r}")
    return value[0], value[1], value[2]


def max_pool_2d_same_size(input: Any, patch_size: Any) -> Variable:
    """Images of which only the largest pixel of each patch is left; all others are zero.

    Parameters
    ----------
    input : tensor of shape (batch, channels, rows, columns)
    patch_size : (int, int)
        Rows and columns of a patch; patches do not overlap, and a partial one at the edge is all zero.

    Returns
    -------
    tensor of the same shape
        Of equal pixels the first in row-major order is left.
    """
    images = pt.as_tensor_variable(input)
    if images.ndim != 4:
        raise ValueError(f"input must have 4 axes (batch, channels, rows, columns), got {images.type}")
    windows = patch_size, patch_size, ((0, 0), (0, 0))
    maxima, winners = MaxPool2d(True)(images, *windows)
    return MaxPool2dGrad()(winners, maxima, images.shape[2], images.shape[3], *windows)


class Pool:
    """Pooling as an object, by the Op's name in Theano; calling it with images and a window pools them.

    Parameters
    ----------
    ignore_border : bool
    mode : {'max', 'sum', 'average_inc_pad', 'average_exc_pad'}
    ndim : {2, 3}
        How many axes are pooled.
    openmp
        Has no effect.
    """

    def __init__(self, ignore_border: bool = False, mode: str = "max", ndim: int = 2, openmp: Any = None):
        if ndim not in (2, 3):
            raise ValueError(f"ndim must be 2 or 3, got {ndim}")
        self.ignore_border, self.mode, self.ndim = ignore_border, mode, ndim

    def __call__(self, x: Any, ws: Any, stride: Any = None, pad: Any = None) -> Variable:
        pool = pool_2d if self.ndim == 2 else pool_3d
        return pool(x, ws, self.ignore_border, stride, (0,) * self.ndim if pad is None else pad, self.mode)

    @staticmethod
    def out_shape(
        imgshape: Sequence[Any],
        ws: Sequence[int] | None = None,
        ignore_border: bool = False,
        stride: Sequence[int] | None = None,
        pad: Sequence[int] | None = None,
        ndim: int = 2,
        ds: Sequence[int] | None = None,
        st: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
    ) -> list[Any]:
        """The shape that images of shape ``imgshape`` have after pooling; ``ds``, ``st``, ``padding`` are old names."""
        window = ds if ws is None else ws
        steps = st if stride is None else stride
        margins = padding if pad is None else pad
        if window is None:
            raise ValueError("ws is missing: the window, one length for each axis that is pooled")
        lengths = []
        for axis in range(ndim):
            step = window[axis] if steps is None else steps[axis]
            margin = 0 if margins is None else margins[axis]
            length = imgshape[axis - ndim]
            lengths.append(geometry.pool_length(length, window[axis], step, margin, margin, ignore_border))
        return [*imgshape[:-ndim], *lengths]


__getattr__, __dir__ = mirror(__name__)
