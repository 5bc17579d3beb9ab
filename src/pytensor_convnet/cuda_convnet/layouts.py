"""c01b, the layout of cuda-convnet: (channels, rows, columns, batch).

All Ops of this package are defined on bc01, (batch, channels, rows, columns). What order numbers have in memory is a
matter of strides, and every kernel reads any strides, so going from one layout to the other is a `dimshuffle`: a
view, which copies nothing. The functions of this subpackage turn their arguments into bc01 views, build the one Op
that everybody else uses, and turn the result back.
"""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.cuda_convnet.errors import IMAGE_AXES
from pytensor_convnet.geometry import format_shape
from pytensor_convnet.ops.base import FLOATS, INTEGERS

_MISSING_AXIS = (
    " If the batch axis is missing, because there is one image only, give it one: .dimshuffle(0, 1, 2, 'x'); "
    "if the channels are, because there is one only: .dimshuffle('x', 0, 1, 2)."
)


def as_c01b(tensor: Any, name: str, axes: str = IMAGE_AXES) -> Variable:
    """``tensor`` as a symbolic variable of these axes, with an error that names it if it has others.

    Parameters
    ----------
    tensor : tensor
        Of floats or integers.
    name : str
        What the error calls it.
    axes : str
        The names of the axes.

    Returns
    -------
    tensor with as many axes

    Raises
    ------
    ValueError
        If it is no tensor of numbers, or has other axes.
    """
    ndim = axes.count(",") + 1
    try:
        variable = pt.as_tensor_variable(tensor)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{name} must be a tensor with {ndim} axes {axes}, got {tensor!r}") from error
    if variable.type.ndim != ndim:
        hint = _MISSING_AXIS if axes == IMAGE_AXES and variable.type.ndim == 3 else ""
        raise ValueError(f"{name} must have {ndim} axes {axes}, got {variable.type.ndim} (type {variable.type}).{hint}")
    if variable.type.dtype not in (*FLOATS, "bool", *INTEGERS):
        raise ValueError(
            f"{name} has dtype {variable.type.dtype}; this operation takes {' or '.join(FLOATS)}. "
            f"Cast it, for example {name}.astype('float32')."
        )
    return variable


def to_bc01(c01b: Variable) -> Variable:
    """A view of c01b images or filters, or of local filters, whose last axis, batch or filters, is the first."""
    return c01b.dimshuffle(c01b.type.ndim - 1, *range(c01b.type.ndim - 1))


def from_bc01(bc01: Variable) -> Variable:
    """The inverse of `to_bc01`."""
    return bc01.dimshuffle(*range(1, bc01.type.ndim), 0)


def c01b_name(c01b: Variable) -> str:
    """The shape of a variable, for an error message."""
    return format_shape(c01b.type.shape)


def gpu_contiguous(x: Any) -> Variable:
    """``x`` itself: kept so that programs which called it run on.

    cuda-convnet's functions took only arrays that were C-contiguous and on the GPU, and ``gpu_contiguous`` made one,
    by a copy if necessary. Ours take any strides, so there is nothing to copy.

    Parameters
    ----------
    x : tensor

    Returns
    -------
    tensor

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor_convnet.cuda_convnet import gpu_contiguous
    >>> images = pt.tensor4("images")
    >>> gpu_contiguous(images) is images
    True
    """
    return pt.as_tensor_variable(x)
