"""Correlation and max pooling in one call, and the gradients: the maps between them are written and read once."""

from pytensor_convnet.kernels.cpu.correlation import correlate2d, correlate2d_input_grad
from pytensor_convnet.kernels.cpu.filter_grad import correlate2d_filter_grad
from pytensor_convnet.kernels.cpu.jit import kernel
from pytensor_convnet.kernels.cpu.max_pooling import max_pool2d
from pytensor_convnet.kernels.cpu.max_pooling_grad import max_pool2d_grad


@kernel
def correlate2d_max_pool2d(
    images, filters, winners_dtype, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding, ignore_border,
):  # fmt: skip
    """The maxima of every window of the maps of `correlate2d`, and their winners."""
    maps = correlate2d(images, filters, stride, padding, dilation, groups, flip)
    return max_pool2d(maps, winners_dtype, window, pool_stride, pool_padding, ignore_border)


@kernel
def correlate2d_max_pool2d_filter_grad(
    images, winners, maps_grad, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding,
):  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` with respect to filters of ``rows`` by ``columns``.

    ``maps_grad`` is the gradient of the maxima; the maps that were pooled have ``map_rows`` by ``map_columns``.
    """
    maps = max_pool2d_grad(winners, maps_grad, map_rows, map_columns, window, pool_stride, pool_padding)
    return correlate2d_filter_grad(images, maps, rows, columns, stride, padding, dilation, groups, flip)


@kernel
def correlate2d_max_pool2d_input_grad(
    filters, winners, maps_grad, rows, columns, map_rows, map_columns, stride, padding, dilation, groups, flip,
    window, pool_stride, pool_padding,
):  # fmt: skip
    """The gradient of `correlate2d_max_pool2d` with respect to images of ``rows`` by ``columns``."""
    maps = max_pool2d_grad(winners, maps_grad, map_rows, map_columns, window, pool_stride, pool_padding)
    return correlate2d_input_grad(filters, maps, rows, columns, stride, padding, dilation, groups, flip)
