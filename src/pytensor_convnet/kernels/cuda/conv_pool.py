"""Correlation, bias, activation and max pooling as one operation on torch tensors, and its gradients."""

from typing import Any

import torch

from pytensor_convnet.geometry import Padding, Pair
from pytensor_convnet.kernels.cuda import conv_pool_candidates  # noqa: F401  (registers how tasks are computed)
from pytensor_convnet.kernels.cuda.activations import ACTIVATIONS
from pytensor_convnet.kernels.cuda.checks import check_biases, check_tensors, count
from pytensor_convnet.kernels.cuda.conv_pool_methods import PoolTask, carry_out
from pytensor_convnet.kernels.cuda.copying import change_format
from pytensor_convnet.kernels.cuda.correlation import as_format, check_precision, checked_geometry
from pytensor_convnet.kernels.cuda.formats import check_format
from pytensor_convnet.kernels.cuda.formats import memory_format as format_of
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.max_pooling import check_winners_dtype
from pytensor_convnet.kernels.cuda.max_pooling_grad import check_winners
from pytensor_convnet.kernels.cuda.pool_plans import Windows, check_pool, check_pooled
from pytensor_convnet.kernels.cuda.streams import allowed, beside
from pytensor_convnet.kernels.cuda.tuning import choose
from pytensor_convnet.kernels.cuda.window_filters import format_to_read


@torch.no_grad()
def correlate2d_max_pool2d(
    images: torch.Tensor, filters: torch.Tensor, winners_dtype: torch.dtype, stride: Pair, padding: Padding,
    dilation: Pair, groups: int, flip: bool, window: Any, pool_stride: Any, pool_padding: Any, ignore_border: bool,
    biases: torch.Tensor, activation: str, *, precision: str = "medium", memory_format: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The maxima of every window of the maps of `correlate2d`, biased and activated, and the taps that won.

    Where `pool_window_kernel` or `conv_pool_kernel` is faster than `correlate2d` and `max_pool2d` after each other,
    which is measured, the maps never reach memory.

    Parameters
    ----------
    images, filters, stride, padding, dilation, groups, flip, precision
        As for `correlate2d`.
    winners_dtype, window, pool_stride, pool_padding, ignore_border
        As for `max_pool2d`, of the maps.
    biases : tensor, (filters,)
        Of the dtype of the images; added to the maxima.
    activation : {'identity', 'relu', 'muting_relu', 'tanh', 'sigmoid'}
        The muting rectifier also gives windows whose maximum is negative, or NaN, no tap for their winner, -1 (255 in
        bytes): `sum_over_pixels` and the gradients then need no other sign that nothing passes there.
    memory_format : str, optional
        Of the results; by default that of the images, batch_last where they have none.

    Returns
    -------
    maxima : tensor, (batch, filters, windows down, windows across)
    winners : tensor
        Of the same shape. Maps that, biased, are alike to 1 in 2**18 may count as equal, and what relu makes zero, of
        whatever tap: no gradient goes there.

    Raises
    ------
    ValueError
        As for `correlate2d` and `max_pool2d`; or biases are not one for each filter, or the activation is none.
    """
    check_tensors(images=images, filters=filters)
    geometry = checked_geometry(images.shape, filters.shape, stride, padding, dilation, groups, flip)
    windows = check_pool(geometry.maps, window, pool_stride, pool_padding, ignore_border, prefix="pool_")
    check_winners_dtype(winners_dtype, windows)
    check_format(memory_format)
    check_precision(precision)
    check_biases(biases, images, filters=filters.shape[0])
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    images = as_format(images)
    formats = str(format_of(images)), memory_format or str(format_of(images))
    task = _task(
        "correlate2d_max_pool2d", geometry, images, precision, formats, windows, activation, winners_dtype, filters
    )  # fmt: skip
    operands = images, filters, biases.contiguous()
    maxima, winners = carry_out(task, choose(task, operands), *operands)
    return maxima, winners


@torch.no_grad()
def correlate2d_max_pool2d_input_grad(
    filters: torch.Tensor, winners: torch.Tensor, maps: torch.Tensor, rows: int, columns: int, map_rows: int,
    map_columns: int, stride: Pair, padding: Padding, dilation: Pair, groups: int, flip: bool, window: Any,
    pool_stride: Any, pool_padding: Any, *, precision: str = "medium", memory_format: str | None = None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` for images of ``rows`` x ``columns``.

    Parameters
    ----------
    filters, rows, columns, stride, padding, dilation, groups, flip, precision, memory_format
        As for `correlate2d_input_grad`.
    winners : tensor
        As `correlate2d_max_pool2d` gave them.
    maps : tensor, (batch, filters, windows down, windows across)
        The gradient of the maxima before these were biased and activated.
    map_rows, map_columns : int
        Of the maps that were pooled.
    window, pool_stride, pool_padding
        As for `correlate2d_max_pool2d`.

    Returns
    -------
    tensor, (batch, channels, rows, columns)

    Raises
    ------
    ValueError
        As for `correlate2d_input_grad`; or such maps and winners do not come from such windows.
    """
    check_tensors(filters=filters, maps=maps)
    shape = (maps.shape[0], filters.shape[1] * count(groups, "groups"), count(rows, "rows"), count(columns, "columns"))
    moves = stride, padding, dilation, groups, flip
    geometry, windows = _checked(
        shape, filters.shape, winners, maps, map_rows, map_columns, moves, window, pool_stride, pool_padding
    )
    maps = as_format(maps)
    formats = str(format_of(maps)), memory_format or str(format_of(maps))
    operands = filters, winners, maps
    return _gradients("input_grad", geometry, operands, precision, formats, memory_format, windows)[0]


@torch.no_grad()
def correlate2d_max_pool2d_filter_grad(
    images: torch.Tensor, winners: torch.Tensor, maps: torch.Tensor, rows: int, columns: int, map_rows: int,
    map_columns: int, stride: Pair, padding: Padding, dilation: Pair, groups: int, flip: bool, window: Any,
    pool_stride: Any, pool_padding: Any, *, precision: str = "medium", memory_format: str = "bc01",
) -> torch.Tensor:  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` for filters of ``rows`` x ``columns``.

    Parameters and errors as for `correlate2d_max_pool2d_input_grad`, with ``images`` as for `correlate2d_max_pool2d`
    in place of filters.

    Returns
    -------
    tensor, (filters, channels // groups, rows, columns)
        In ``memory_format``.
    """
    check_tensors(images=images, maps=maps)
    channels = images.shape[1] // count(groups, "groups")
    shape = (maps.shape[1], channels, count(rows, "rows"), count(columns, "columns"))
    moves = stride, padding, dilation, groups, flip
    geometry, windows = _checked(
        images.shape, shape, winners, maps, map_rows, map_columns, moves, window, pool_stride, pool_padding
    )
    check_format(memory_format, optional=False)
    images, maps = as_format(images), as_format(maps)
    formats = str(format_of(images)), str(format_of(maps))
    operands = images, winners, maps
    [of_filters] = _gradients("filter_grad", geometry, operands, precision, formats, None, windows)
    return change_format(of_filters, memory_format)


@torch.no_grad()
def correlate2d_max_pool2d_grads(
    images: torch.Tensor, filters: torch.Tensor, winners: torch.Tensor, maps: torch.Tensor, map_rows: int,
    map_columns: int, stride: Pair, padding: Padding, dilation: Pair, groups: int, flip: bool, window: Any,
    pool_stride: Any, pool_padding: Any, *, precision: str = "medium", memory_format: str | None = None,
    filter_format: str = "bc01", late: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Both gradients, of images and of filters: pooled gradients are spread over maps once for the two.

    Parameters and errors as for `correlate2d_max_pool2d_input_grad`, with ``images`` as for `correlate2d_max_pool2d`.
    With ``late`` the gradient of filters may run beside what follows; see `streams.awaited`.

    Returns
    -------
    of_images : tensor, (batch, channels, rows, columns)
    of_filters : tensor, (filters, channels // groups, rows, columns)
        In ``filter_format``.
    """
    check_tensors(images=images, filters=filters, maps=maps)
    moves = stride, padding, dilation, groups, flip
    geometry, windows = _checked(
        images.shape, filters.shape, winners, maps, map_rows, map_columns, moves, window, pool_stride, pool_padding
    )
    check_format(filter_format, "filter_format", optional=False)
    images, maps = as_format(images), as_format(maps)
    formats = str(format_of(images)), str(format_of(maps)), memory_format or str(format_of(images))
    operands = images, filters, winners, maps
    with allowed(late):
        of_images, of_filters = _gradients("grads", geometry, operands, precision, formats, memory_format, windows)
        if filter_format != "bc01":
            with beside(of_filters):
                of_filters = change_format(of_filters, filter_format)
    return of_images, of_filters


def _checked(
    images, filters, winners, maps, map_rows, map_columns, moves, window, pool_stride, pool_padding
) -> tuple[Geometry, Windows]:
    check_winners(winners, maps, "maps")
    full = (*maps.shape[:2], count(map_rows, "map_rows"), count(map_columns, "map_columns"))
    stride, padding, dilation, groups, flip = moves
    geometry = checked_geometry(images, filters, stride, padding, dilation, groups, flip, full)
    return geometry, check_pooled(full, maps.shape, window, pool_stride, pool_padding, prefix="pool_")


def _task(name, geometry, tensor, precision, formats, windows, activation, winners_dtype, filters) -> PoolTask:
    precision = precision if tensor.dtype == torch.float32 else "medium"
    read = "bc01" if filters is None else format_to_read(filters)
    facts = geometry, tensor.dtype, precision, formats, tensor.device, windows, activation, winners_dtype
    return PoolTask(name, *facts, format_to_read=read)


def _gradients(name, geometry, operands, precision, formats, memory_format, windows) -> tuple[torch.Tensor, ...]:
    check_format(memory_format)
    check_precision(precision)
    *sources, winners, maps = operands
    facts = geometry, maps, precision, formats, windows, "identity", winners.dtype
    task = _task(f"correlate2d_max_pool2d_{name}", *facts, None if name == "filter_grad" else sources[-1])
    return carry_out(task, choose(task, operands), *operands)
