"""Run-time shape checks of the kernels: a few integer comparisons, and `ShapeError` with the numbers that met."""

from numba import types

from pytensor_convnet.geometry import CORRELATION, MAPS, ShapeError, correlation_length, dilated_length
from pytensor_convnet.kernels.cpu.detached import NO_ARRAYS, detached
from pytensor_convnet.kernels.cpu.jit import plain_part

_SHAPE, _PAIR = types.UniTuple(types.intp, 4), types.UniTuple(types.intp, 2)

SLIDING = _PAIR, types.UniTuple(_PAIR, 2), _PAIR, types.intp
"""How filters slide: stride, padding, dilation and groups, as Numba's types."""


def gradient_signature(number):
    """Of a gradient of a correlation, from two arrays of such numbers and the rows and columns that it has."""
    arrays = (types.Array(number, 4, "A", readonly=True),) * 2
    return types.Array(number, 4, "C")(*arrays, types.intp, types.intp, *SLIDING, types.boolean)


@plain_part
def check_window(stride, padding, dilation, groups):
    """Raise ValueError unless a filter can move this way at all."""
    (top, bottom), (left, right) = padding
    if min(stride) < 1:
        raise ValueError("stride must be at least 1 on each axis")
    if min(top, bottom, left, right) < 0:
        raise ValueError("padding must not be negative")
    if min(dilation) < 1:
        raise ValueError("dilation must be at least 1 on each axis")
    if groups < 1:
        raise ValueError("groups must be at least 1")


@detached(lambda: (_SHAPE, _SHAPE, *SLIDING), NO_ARRAYS)
@plain_part
def check_correlation(images, filters, stride, padding, dilation, groups):
    """Raise unless filters of shape ``filters`` can be correlated with images of shape ``images``."""
    check_window(stride, padding, dilation, groups)
    (top, bottom), (left, right) = padding
    fits = images[1] % groups == 0 and filters[0] % groups == 0 and filters[1] * groups == images[1]
    fits &= 0 < dilated_length(filters[2], dilation[0]) <= images[2] + top + bottom
    fits &= 0 < dilated_length(filters[3], dilation[1]) <= images[3] + left + right
    if not fits:
        raise ShapeError(
            CORRELATION,
            images[0], images[1], images[2], images[3],
            filters[0], filters[1], filters[2], filters[3],
            stride[0], stride[1], top, bottom, left, right, dilation[0], dilation[1], groups,
        )  # fmt: skip


@detached(lambda: (_SHAPE, _SHAPE, _SHAPE, *SLIDING), NO_ARRAYS)
@plain_part
def check_maps(images, filters, maps, stride, padding, dilation, groups):
    """Raise unless such a correlation is possible and its output has the shape ``maps``."""
    check_correlation(images, filters, stride, padding, dilation, groups)
    (top, bottom), (left, right) = padding
    rows = correlation_length(images[2], filters[2], stride[0], top, bottom, dilation[0])
    columns = correlation_length(images[3], filters[3], stride[1], left, right, dilation[1])
    if maps[0] != images[0] or maps[1] != filters[0] or maps[2] != rows or maps[3] != columns:
        raise ShapeError(
            MAPS,
            images[0], images[1], images[2], images[3],
            filters[0], filters[1], filters[2], filters[3],
            maps[0], maps[1], maps[2], maps[3],
            stride[0], stride[1], top, bottom, left, right, dilation[0], dilation[1], groups,
        )  # fmt: skip
