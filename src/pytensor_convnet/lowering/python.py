"""What `Op.perform` computes: PyTensor's C and Python linkers, constant folding, debug modes.

The same CPU kernels as the Numba backend's, imported when the first one is needed.
"""

from math import prod

import numpy as np

from pytensor_convnet.ops import (
    AllMean,
    AveragePool2d,
    AveragePool2dGrad,
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CorrelateMaxPool2d,
    CorrelateMaxPool2dBiasGrad,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
    CrossMapNorm,
    CrossMapNormGrad,
    CrossMapSum,
    DrawWinners2d,
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
    LocallyConnected2dInputGrad,
    MaxPool2d,
    MaxPool2dGather,
    MaxPool2dGrad,
    MaxPool2dMaxima,
    RectifiedAveragePool2d,
    RectifiedAveragePool2dGrad,
    TanhGrad,
)
from pytensor_convnet.ops.base import evaluate
from pytensor_convnet.ops.conv_pool import NO_TAP


def _kernels():
    from pytensor_convnet.kernels import cpu

    return cpu


def _sliding(correlation, taps):
    """How filters of ``taps`` (rows, columns) slide, in the order of the kernels' arguments."""
    padding = correlation.resolved_padding(*taps)
    return correlation.stride, padding, correlation.dilation, correlation.groups, correlation.flip


def _register_correlation(op_type, name):
    @evaluate.register(op_type)
    def run(op, node, *inputs):
        first, second, *integers = inputs
        rows_and_columns = [int(length) for length in integers]
        kernel = getattr(_kernels(), name)
        return [kernel(first, second, *rows_and_columns, *_sliding(op, op.filter_taps(inputs)))]


_register_correlation(Correlate2d, "correlate2d")
_register_correlation(Correlate2dInputGrad, "correlate2d_input_grad")
_register_correlation(Correlate2dFilterGrad, "correlate2d_filter_grad")
_register_correlation(LocallyConnected2d, "locally_connected2d")
_register_correlation(LocallyConnected2dInputGrad, "locally_connected2d_input_grad")
_register_correlation(LocallyConnected2dFilterGrad, "locally_connected2d_filter_grad")


def _windows(window, stride, padding):
    top_bottom, left_right = padding.tolist()
    return tuple(window.tolist()), tuple(stride.tolist()), (tuple(top_bottom), tuple(left_right))


@evaluate.register(MaxPool2d)
def _max_pool2d(op, node, images, *windows):
    dtype = node.outputs[1].type.numpy_dtype.type
    return _kernels().max_pool2d(images, dtype, *_windows(*windows), op.ignore_border)


@evaluate.register(MaxPool2dMaxima)
def _max_pool2d_maxima(op, node, images, *windows):
    return [_kernels().max_pool2d_maxima(images, *_windows(*windows), op.ignore_border)]


@evaluate.register(MaxPool2dGrad)
def _max_pool2d_grad(op, node, winners, maps, rows, columns, *windows):
    return [_kernels().max_pool2d_grad(winners, maps, int(rows), int(columns), *_windows(*windows))]


@evaluate.register(MaxPool2dGather)
def _max_pool2d_gather(op, node, images, winners, *windows):
    return [_kernels().max_pool2d_gather(images, winners, *_windows(*windows))]


@evaluate.register(DrawWinners2d)
def _draw_winners2d(op, node, images, uniforms, *windows):
    dtype = node.outputs[0].type.numpy_dtype.type
    return [_kernels().draw_winners2d(images, uniforms, dtype, *_windows(*windows))]


@evaluate.register(CorrelateMaxPool2d)
def _correlate_max_pool2d(op, node, images, filters, biases, *windows):
    dtype = node.outputs[1].type.numpy_dtype.type
    sliding = _sliding(op.correlation, filters.shape[2:])
    mutes = op.activation == "muting_relu"
    maxima, winners = _kernels().correlate2d_max_pool2d(
        images, filters, dtype, *sliding, *_windows(*windows), op.pooling.ignore_border, biases,
        _kernels().ACTIVATIONS["identity" if mutes else op.activation],
    )  # fmt: skip
    if mutes:
        winners = np.where(maxima >= 0, winners, np.array(NO_TAP).astype(dtype))
        maxima = np.maximum(maxima, 0)
    return maxima, winners


@evaluate.register(CorrelateMaxPool2dInputGrad)
def _correlate_max_pool2d_input_grad(op, node, filters, *others):
    arguments = _fused_gradient_arguments(op.correlation, filters.shape[2:], *others)
    return [_kernels().correlate2d_max_pool2d_input_grad(filters, *arguments)]


@evaluate.register(CorrelateMaxPool2dFilterGrad)
def _correlate_max_pool2d_filter_grad(op, node, images, winners, maps, rows, columns, *others):
    taps = int(rows), int(columns)
    arguments = _fused_gradient_arguments(op.correlation, taps, winners, maps, *taps, *others)
    return [_kernels().correlate2d_max_pool2d_filter_grad(images, *arguments)]


@evaluate.register(CorrelateMaxPool2dBiasGrad)
def _correlate_max_pool2d_bias_grad(op, node, winners, maps):
    muted = winners == np.array(NO_TAP).astype(winners.dtype)
    return [np.where(muted, 0, maps).sum(axis=(0, 2, 3), dtype=maps.dtype)]


def _fused_gradient_arguments(correlation, taps, winners, maps, *integers):
    """All arguments of a fused gradient's kernel but the first."""
    lengths, windows = [int(length) for length in integers[:4]], _windows(*integers[4:])
    winners, maps = _without_muted(winners, maps, lengths[2:], windows)
    return winners, maps, *lengths, *_sliding(correlation, taps), *windows


def _without_muted(winners, maps, map_lengths, windows):
    """Zero to scatter, from some pixel of the window, where a winner is muted: these kernels know taps only."""
    if winners.dtype == np.uint8 and prod(windows[0]) > 255:  # each byte numbers a tap
        return winners, maps
    muted = winners == np.array(NO_TAP).astype(winners.dtype)
    if not muted.any():
        return winners, maps
    nothing = np.zeros((1, 1, *map_lengths), maps.dtype)
    _, first = _kernels().max_pool2d(nothing, winners.dtype.type, *windows, False)
    first = first[:, :, : maps.shape[2], : maps.shape[3]]
    return np.where(muted, first, winners), np.where(muted, 0, maps).astype(maps.dtype)


@evaluate.register(AveragePool2d)
def _average_pool2d(op, node, images, *windows):
    return [_kernels().average_pool2d(images, *_windows(*windows), op.ignore_border, _kernels().MODES[op.mode])]


@evaluate.register(AveragePool2dGrad)
def _average_pool2d_grad(op, node, maps, rows, columns, *windows):
    return [
        _kernels().average_pool2d_grad(maps, int(rows), int(columns), *_windows(*windows), _kernels().MODES[op.mode])
    ]


@evaluate.register(RectifiedAveragePool2d)
def _rectified_average_pool2d(op, node, images, biases, *windows):
    arguments = *_windows(*windows), op.ignore_border, _kernels().MODES[op.mode]
    return [_kernels().rectified_average_pool2d(images, biases, *arguments)]


@evaluate.register(RectifiedAveragePool2dGrad)
def _rectified_average_pool2d_grad(op, node, images, biases, maps, *windows):
    arguments = *_windows(*windows), _kernels().MODES[op.mode]
    return _kernels().rectified_average_pool2d_grad(images, biases, maps, *arguments)


@evaluate.register(TanhGrad)
def _tanh_grad(op, node, tanhs, tanhs_grad):
    return _kernels().tanh_grad(tanhs, tanhs_grad)


@evaluate.register(CrossMapSum)
def _cross_map_sum(op, node, images):
    return [_kernels().cross_map_sum(images, *op._props())]


@evaluate.register(CrossMapNorm)
def _cross_map_norm(op, node, images):
    return [_kernels().cross_map_norm(images, *op._props())]


@evaluate.register(CrossMapNormGrad)
def _cross_map_norm_grad(op, node, images, maps):
    return [_kernels().cross_map_norm_grad(images, maps, *op._props())]


@evaluate.register(AllMean)
def _all_mean(op, node, *tensors):
    from pytensor_convnet.kernels.collectives import all_mean_of_arrays

    return all_mean_of_arrays(tensors)
