"""What pooling kernels do first: read their arguments, and refuse those that do not fit.

The tests are a few integer comparisons; the sentence that a user reads is written by `geometry`, from the
numbers that `ShapeError` carries.
"""

from typing import NamedTuple

from numba import types

from pytensor_convnet.geometry import POOL, POOLED, ShapeError, pool_length
from pytensor_convnet.kernels.cpu.detached import NO_ARRAYS, detached
from pytensor_convnet.kernels.cpu.jit import plain_part
from pytensor_convnet.kernels.cpu.threads import thread_count

SERIAL_TAPS = 1 << 15
"""Below so many taps of windows, waking a thread takes longer than the work."""


class Windows(NamedTuple):
    """Windows that slide over images; every number that a pooling kernel needs."""

    rows: int
    columns: int
    out_rows: int
    out_columns: int
    window_rows: int
    window_columns: int
    stride_rows: int
    stride_columns: int
    top: int
    bottom: int
    left: int
    right: int


WINDOWS = types.NamedUniTuple(types.intp, len(Windows._fields), Windows)
"""`Windows` as Numba's type."""


@plain_part
def useful_threads(taps):
    """How many threads to share work on so many taps of windows among."""
    return thread_count() if taps > SERIAL_TAPS else 1


@plain_part
def _axis_fits(length, window, stride, before, after, ignore_border):
    """Whether windows can slide along one axis; `geometry.pool_problem` in numbers."""
    if min(window, stride, length) < 1 or min(before, after) < 0 or max(before, after) >= window:
        return False
    return not (ignore_border and window > length + before + after)


@plain_part
def pool_numbers(window, stride, padding):
    """The numbers that say how windows slide, which may be in tuples or in arrays."""
    # fmt: off
    return (
        int(window[0]), int(window[1]), int(stride[0]), int(stride[1]),
        int(padding[0][0]), int(padding[0][1]), int(padding[1][0]), int(padding[1][1]),
    )
    # fmt: on


_SHAPE = types.UniTuple(types.intp, 4)

POOL_NUMBERS = types.UniTuple(types.intp, 8)
"""What `pool_numbers` makes, as Numba's type."""


@detached(lambda: WINDOWS(_SHAPE, POOL_NUMBERS, types.boolean), NO_ARRAYS)
@plain_part
def check_pool_numbers(shape, numbers, ignore_border):
    """As `check_pool`, for `pool_numbers`."""
    batch, channels, rows, columns = shape
    window_rows, window_columns, stride_rows, stride_columns, top, bottom, left, right = numbers
    rows_fit = _axis_fits(rows, window_rows, stride_rows, top, bottom, ignore_border)
    columns_fit = _axis_fits(columns, window_columns, stride_columns, left, right, ignore_border)
    if not (rows_fit and columns_fit):
        # fmt: off
        raise ShapeError(
            POOL, batch, channels, rows, columns, window_rows, window_columns, stride_rows, stride_columns,
            top, bottom, left, right, int(ignore_border),
        )
        # fmt: on
    out_rows = pool_length(rows, window_rows, stride_rows, top, bottom, ignore_border)
    out_columns = pool_length(columns, window_columns, stride_columns, left, right, ignore_border)
    # fmt: off
    return Windows(
        rows, columns, out_rows, out_columns, window_rows, window_columns, stride_rows, stride_columns,
        top, bottom, left, right,
    )
    # fmt: on


@plain_part
def check_pool(shape, window, stride, padding, ignore_border):
    """The `Windows` of pooling images of ``shape``; raises `ShapeError` when there are none."""
    return check_pool_numbers(shape, pool_numbers(window, stride, padding), bool(ignore_border))


@detached(lambda: WINDOWS(_SHAPE, _SHAPE, POOL_NUMBERS), NO_ARRAYS)
@plain_part
def check_pooled_numbers(shape, pooled, numbers):
    """As `check_pooled`, for `pool_numbers`."""
    partial = check_pool_numbers(shape, numbers, False)
    row_facts = (shape[2], partial.window_rows, partial.stride_rows, partial.top, partial.bottom)
    column_facts = (shape[3], partial.window_columns, partial.stride_columns, partial.left, partial.right)
    rows_fit = pooled[2] == partial.out_rows or pooled[2] == pool_length(*row_facts, True)
    columns_fit = pooled[3] == partial.out_columns or pooled[3] == pool_length(*column_facts, True)
    if shape[0] != pooled[0] or shape[1] != pooled[1] or not (rows_fit and columns_fit):
        # fmt: off
        raise ShapeError(
            POOLED, shape[0], shape[1], shape[2], shape[3], pooled[0], pooled[1], pooled[2], pooled[3],
            partial.window_rows, partial.window_columns, partial.stride_rows, partial.stride_columns,
            partial.top, partial.bottom, partial.left, partial.right,
        )
        # fmt: on
    # fmt: off
    return Windows(
        shape[2], shape[3], pooled[2], pooled[3], partial.window_rows, partial.window_columns,
        partial.stride_rows, partial.stride_columns, partial.top, partial.bottom, partial.left, partial.right,
    )
    # fmt: on


@plain_part
def check_pooled(shape, pooled, window, stride, padding):
    """The `Windows` that pooled images of ``shape`` to maps of shape ``pooled``; `ShapeError` when none do.

    Both counts of windows are admitted, with and without partial ones.
    """
    return check_pooled_numbers(shape, pooled, pool_numbers(window, stride, padding))
