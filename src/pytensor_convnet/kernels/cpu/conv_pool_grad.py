"""The gradients of correlation with max pooling; the forward pass is in `conv_pool`.

They are sums over winners (`winner_filter_grad`, `winner_input_grad`); where nearly all pixels win, sums over all of
them, for which rows of the maps' gradient are made from the pooled gradient and the winners when they are packed
(`lane_pooling`). Where that is not possible either, the maps' gradient is written after all.
"""

from numba import types

from pytensor_convnet.geometry import WINNERS as WINNERS_PROBLEM
from pytensor_convnet.geometry import ShapeError
from pytensor_convnet.kernels.cpu.checks import SLIDING, check_maps
from pytensor_convnet.kernels.cpu.conv_pool import (
    FLOATS_AND_WINNERS,
    SHAPE,
    arrays_of,
    as_bytes,
    has_byte_winners,
    parts_of,
    shapes_fuse,
)
from pytensor_convnet.kernels.cpu.correlation import correlate2d_input_grad, input_grad, input_grad_signature
from pytensor_convnet.kernels.cpu.detached import NO_ARRAYS, detached
from pytensor_convnet.kernels.cpu.filter_grad import correlate2d_filter_grad, filter_grad, pass_signature
from pytensor_convnet.kernels.cpu.filter_packing import split_groups
from pytensor_convnet.kernels.cpu.jit import any_layout, part, plain_kernel, plain_part
from pytensor_convnet.kernels.cpu.max_pooling_grad import max_pool2d_grad
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.packing import follow_each_other, integers
from pytensor_convnet.kernels.cpu.pool_checks import POOL_NUMBERS, WINDOWS, check_pooled_numbers, pool_numbers
from pytensor_convnet.kernels.cpu.winner_filter_grad import filter_grad_of_winners
from pytensor_convnet.kernels.cpu.winner_input_grad import input_grad_of_winners
from pytensor_convnet.kernels.cpu.winner_planning import filter_grad_pays, input_grad_pays

# --------------------------------------------------------------- where the maps' gradient is written after all


def _gradient_signature(number, winner):
    lengths, gradient = (types.intp, types.intp), number[:, :, :, ::1]
    return gradient(*arrays_of(number, winner, number), *lengths, WINDOWS, *SLIDING, types.boolean)


@detached(_gradient_signature, FLOATS_AND_WINNERS, lazily=True)
@part
def _filter_grad_with_maps(
    images, winners, maps_grad, rows, columns, windows, stride, padding, dilation, groups, flip
):  # fmt: skip
    maps = max_pool2d_grad(winners, maps_grad, windows.rows, windows.columns, *parts_of(windows))
    return correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip)


@detached(_gradient_signature, FLOATS_AND_WINNERS, lazily=True)
@part
def _input_grad_with_maps(
    filters, winners, maps_grad, rows, columns, windows, stride, padding, dilation, groups, flip
):  # fmt: skip
    maps = max_pool2d_grad(winners, maps_grad, windows.rows, windows.columns, *parts_of(windows))
    return correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip)


# --------------------------------------------------------------------------- where the sums run over all pixels

# Compiled when they are first called: most gradients are sums over winners.


@detached(pass_signature, lazily=True)
@part
def _filter_grad_of_pixels(winners, windows, misfits, images, maps, gradient, stride, padding, dilation, groups):
    filter_grad(winners, windows, misfits, images, maps, gradient, stride, padding, dilation, groups)


@detached(input_grad_signature, lazily=True)
@part
def _input_grad_of_pixels(winners, windows, misfits, maps, filters, images, stride, padding, dilation):
    input_grad(winners, windows, misfits, maps, filters, images, stride, padding, dilation)


# --------------------------------------------------------------------------------------------- the kernels


@detached(lambda: (SHAPE, SHAPE, SHAPE, SHAPE, WINDOWS, *SLIDING), NO_ARRAYS)
@plain_part
def _check_gradient(images, filters, winners, maps_grad, windows, stride, padding, dilation, groups):
    """Raise unless a gradient of such shapes can come from pooling this correlation's maps."""
    maps = (winners[0], winners[1], windows.rows, windows.columns)
    if winners != maps_grad:
        raise ShapeError(
            WINNERS_PROBLEM,
            winners[0], winners[1], winners[2], winners[3], maps_grad[0], maps_grad[1], maps_grad[2], maps_grad[3],
        )  # fmt: skip
    check_maps(images, filters, maps, stride, padding, dilation, groups)


@plain_part
def _windows_of(
    images, filters, winners, maps_grad, map_rows, map_columns, numbers, stride, padding, dilation, groups
):  # fmt: skip
    """The windows of a gradient that has images and filters of such shapes, and whether fused loops read its arrays."""
    windows = check_pooled_numbers((winners.shape[0], winners.shape[1], map_rows, map_columns), winners.shape, numbers)
    _check_gradient(images, filters, winners.shape, maps_grad.shape, windows, stride, padding, dilation, groups)
    together = follow_each_other(winners) and follow_each_other(maps_grad)
    return windows, together and has_byte_winners(winners, windows)


def _pooled_gradient_signature(number, winner):
    lengths = (types.intp,) * 4
    gradient = number[:, :, :, ::1]
    return gradient(*arrays_of(number, winner, number), *lengths, *SLIDING, types.boolean, POOL_NUMBERS)


@detached(_pooled_gradient_signature, FLOATS_AND_WINNERS)
@plain_part
def _filter_grad(
    images, winners, maps_grad, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip, numbers
):  # fmt: skip
    shape = (winners.shape[1], images.shape[1] // max(groups, 1), rows, columns)
    slides, item = (stride, padding, dilation, groups), images.itemsize
    windows, fused = _windows_of(images.shape, shape, winners, maps_grad, map_rows, map_columns, numbers, *slides)
    fused &= images.size > 0
    gradient, misfits = new_array(shape, images.dtype), integers(1)
    gradient[:] = 0
    misfits[0] = 1
    step = -1 if flip else 1
    view = gradient[:, :, ::step, ::step]
    if fused and filter_grad_pays(images.shape, shape, windows, *slides, item):
        misfits[0] = filter_grad_of_winners(images, any_layout(as_bytes(winners)), maps_grad, view, windows, *slides)
    elif fused and shapes_fuse(images.shape, shape, item, windows):
        _filter_grad_of_pixels(any_layout(as_bytes(winners)), windows, misfits, images, maps_grad, view, *slides)
    if misfits[0] == 0:
        return gradient
    # Where a winner does not fit, this says which.
    return _filter_grad_with_maps(
        images, winners, maps_grad, rows, columns, windows, stride, padding, dilation, groups, flip
    )  # fmt: skip


@plain_kernel
def correlate2d_max_pool2d_filter_grad(
    images, winners, maps_grad, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding,
):  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` with respect to filters of ``rows`` by ``columns``.

    ``maps_grad`` is the gradient of the maxima; the maps that were pooled have ``map_rows`` by ``map_columns``.
    """
    return _filter_grad(
        any_layout(images), any_layout(winners), any_layout(maps_grad), rows, columns, map_rows, map_columns,
        stride, padding, dilation, groups, bool(flip), pool_numbers(window, pool_stride, pool_padding),
    )  # fmt: skip


@detached(_pooled_gradient_signature, FLOATS_AND_WINNERS)
@plain_part
def _input_grad(
    filters, winners, maps_grad, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip, numbers
):  # fmt: skip
    shape = (winners.shape[0], filters.shape[1] * groups, rows, columns)
    slides, item = (stride, padding, dilation), maps_grad.itemsize
    windows, fused = _windows_of(
        shape, filters.shape, winners, maps_grad, map_rows, map_columns, numbers, *slides, groups
    )  # fmt: skip
    fused &= filters.size > 0
    images, misfits = new_array(shape, maps_grad.dtype), integers(1)
    misfits[0] = 1
    grouped = split_groups(filters, max(groups, 1))
    if flip:
        grouped = grouped[:, :, :, ::-1, ::-1]
    if images.size == 0:
        misfits[0] = 0
    elif fused and input_grad_pays(shape, filters.shape, windows, *slides, groups, item):
        misfits[0] = input_grad_of_winners(grouped, any_layout(as_bytes(winners)), maps_grad, images, windows, *slides)
    elif fused and shapes_fuse(shape, filters.shape, item, windows):
        _input_grad_of_pixels(any_layout(as_bytes(winners)), windows, misfits, maps_grad, grouped, images, *slides)
    if misfits[0] == 0:
        return images
    # Where a winner does not fit, this says which.
    return _input_grad_with_maps(
        filters, winners, maps_grad, rows, columns, windows, stride, padding, dilation, groups, flip
    )  # fmt: skip


@plain_kernel
def correlate2d_max_pool2d_input_grad(
    filters, winners, maps_grad, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding,
):  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` with respect to images of ``rows`` by ``columns``."""
    return _input_grad(
        any_layout(filters), any_layout(winners), any_layout(maps_grad), rows, columns, map_rows, map_columns,
        stride, padding, dilation, groups, bool(flip), pool_numbers(window, pool_stride, pool_padding),
    )  # fmt: skip
