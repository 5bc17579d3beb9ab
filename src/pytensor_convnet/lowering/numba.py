"""PyTensor's Numba backend: each Op becomes a call of a CPU kernel with the Op's geometry.

PyTensor caches what it compiles under a key that we give: the Op, all its properties, and the fingerprints of the
kernels' sources and of this one. The geometry reaches a kernel as plain integers, so one compiled kernel serves every
shape.
"""

from hashlib import sha256

import numba
import numpy as np
from pytensor.link.numba.dispatch.basic import (
    get_numba_type,
    numba_funcify_and_cache_key,
    numba_njit,
    register_funcify_and_cache_key,
)
from pytensor.tensor.math import Dot

from pytensor_convnet import geometry
from pytensor_convnet.kernels.sources import digest_of
from pytensor_convnet.ops import (
    AllMean,
    AveragePool2d,
    AveragePool2dGrad,
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CorrelateMaxPool2d,
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
from pytensor_convnet.ops.activations import RationalTanh
from pytensor_convnet.ops.correlation import FilterGrad
from pytensor_convnet.ops.products import KeptDot, OrderedTranspose

_SOURCE = digest_of(__file__)


def _cache_key(op, node):
    from pytensor_convnet.kernels.cpu.jit import FINGERPRINT

    facts = type(op).__name__, op._props(), [output.type.dtype for output in node.outputs], FINGERPRINT, _SOURCE
    return sha256(repr(facts).encode()).hexdigest()


def _sliding(correlation):
    """A compiled function from the filters' rows and columns to how they slide, in the order of kernels' arguments."""
    stride, dilation = (tuple(map(np.int64, pair)) for pair in (correlation.stride, correlation.dilation))
    groups, flip = np.int64(correlation.groups), np.bool_(correlation.flip)
    resolve = _padding_function(correlation.padding, dilation)

    @numba_njit
    def sliding(rows, columns):
        return stride, resolve(rows, columns), dilation, groups, flip

    return sliding


def _padding_function(padding, dilation):
    """A compiled function from the filters' rows and columns to the padding in numbers."""
    if isinstance(padding, tuple):

        def resolve(rows, columns):
            return padding

    else:
        one_side = numba_njit({"half": geometry.half_padding, "full": geometry.full_padding}[padding])

        def resolve(rows, columns):
            top, left = one_side(rows, dilation[0]), one_side(columns, dilation[1])
            return (top, top), (left, left)

    return numba_njit(resolve)


def _register(op_type, kernel_name):
    """Let `build` make the compiled function of every ``op_type`` node from the kernel of that name."""

    def decorator(build):
        @register_funcify_and_cache_key(op_type)
        def funcify(op, node, **kwargs):
            from pytensor_convnet.kernels import cpu

            return build(op, node, getattr(cpu, kernel_name)), _cache_key(op, node)

        return build

    return decorator


@_register(Correlate2d, "correlate2d")
@_register(LocallyConnected2d, "locally_connected2d")
def _forward(op, node, kernel):
    sliding = _sliding(op)

    @numba_njit
    def correlate(images, filters):
        return kernel(images, filters, *sliding(filters.shape[-2], filters.shape[-1]))

    return correlate


@_register(Correlate2dInputGrad, "correlate2d_input_grad")
@_register(Correlate2dFilterGrad, "correlate2d_filter_grad")
@_register(LocallyConnected2dInputGrad, "locally_connected2d_input_grad")
@_register(LocallyConnected2dFilterGrad, "locally_connected2d_filter_grad")
def _gradient(op, node, kernel):
    sliding, makes_filters = _sliding(op), isinstance(op, FilterGrad)

    @numba_njit
    def gradient(tensor, maps, rows, columns):
        lengths = rows.item(), columns.item()
        taps = lengths if makes_filters else tensor.shape[-2:]
        return kernel(tensor, maps, *lengths, *sliding(*taps))

    return gradient


@_register(MaxPool2d, "max_pool2d")
def _max_pool2d(op, node, kernel):
    ignore_border = np.bool_(op.ignore_border)
    winners_dtype = node.outputs[1].type.numpy_dtype

    @numba_njit
    def max_pool2d(images, window, stride, padding):
        return kernel(images, winners_dtype, window, stride, padding, ignore_border)

    return max_pool2d


@_register(MaxPool2dMaxima, "max_pool2d_maxima")
def _max_pool2d_maxima(op, node, kernel):
    ignore_border = np.bool_(op.ignore_border)

    @numba_njit
    def max_pool2d_maxima(images, window, stride, padding):
        return kernel(images, window, stride, padding, ignore_border)

    return max_pool2d_maxima


@_register(MaxPool2dGrad, "max_pool2d_grad")
def _max_pool2d_grad(op, node, kernel):
    @numba_njit
    def max_pool2d_grad(winners, maps, rows, columns, window, stride, padding):
        return kernel(winners, maps, rows.item(), columns.item(), window, stride, padding)

    return max_pool2d_grad


@_register(MaxPool2dGather, "max_pool2d_gather")
def _max_pool2d_gather(op, node, kernel):
    @numba_njit
    def max_pool2d_gather(images, winners, window, stride, padding):
        return kernel(images, winners, window, stride, padding)

    return max_pool2d_gather


@_register(DrawWinners2d, "draw_winners2d")
def _draw_winners2d(op, node, kernel):
    winners_dtype = node.outputs[0].type.numpy_dtype

    @numba_njit
    def draw_winners2d(images, uniforms, window, stride, padding):
        return kernel(images, uniforms, winners_dtype, window, stride, padding)

    return draw_winners2d


def _activation_number(op):
    from pytensor_convnet.kernels import cpu

    return np.int64(cpu.ACTIVATIONS[op.activation])


@_register(CorrelateMaxPool2d, "correlate2d_max_pool2d")
def _correlate_max_pool2d(op, node, kernel):
    sliding, ignore_border = _sliding(op.correlation), np.bool_(op.pooling.ignore_border)
    winners_dtype, activation = node.outputs[1].type.numpy_dtype, _activation_number(op)

    @numba_njit
    def correlate_max_pool2d(images, filters, biases, *windows):
        slide = sliding(filters.shape[2], filters.shape[3])
        return kernel(images, filters, winners_dtype, *slide, *windows, ignore_border, biases, activation)

    return correlate_max_pool2d


@_register(CorrelateMaxPool2dInputGrad, "correlate2d_max_pool2d_input_grad")
@_register(CorrelateMaxPool2dFilterGrad, "correlate2d_max_pool2d_filter_grad")
def _correlate_max_pool2d_gradient(op, node, kernel):
    sliding, makes_filters = _sliding(op.correlation), isinstance(op, CorrelateMaxPool2dFilterGrad)

    @numba_njit
    def gradient(tensor, winners, maps, rows, columns, map_rows, map_columns, *windows):
        lengths = rows.item(), columns.item()
        taps = lengths if makes_filters else tensor.shape[-2:]
        map_lengths = map_rows.item(), map_columns.item()
        return kernel(tensor, winners, maps, *lengths, *map_lengths, *sliding(*taps), *windows)

    return gradient


def _mode_number(op):
    from pytensor_convnet.kernels import cpu

    return np.int64(cpu.MODES[op.mode])


@_register(AveragePool2d, "average_pool2d")
def _average_pool2d(op, node, kernel):
    ignore_border, mode = np.bool_(op.ignore_border), _mode_number(op)

    @numba_njit
    def average_pool2d(images, window, stride, padding):
        return kernel(images, window, stride, padding, ignore_border, mode)

    return average_pool2d


@_register(AveragePool2dGrad, "average_pool2d_grad")
def _average_pool2d_grad(op, node, kernel):
    mode = _mode_number(op)

    @numba_njit
    def average_pool2d_grad(maps, rows, columns, window, stride, padding):
        return kernel(maps, rows.item(), columns.item(), window, stride, padding, mode)

    return average_pool2d_grad


@_register(RectifiedAveragePool2d, "rectified_average_pool2d")
def _rectified_average_pool2d(op, node, kernel):
    ignore_border, mode = np.bool_(op.ignore_border), _mode_number(op)

    @numba_njit
    def rectified_average_pool2d(images, biases, window, stride, padding):
        return kernel(images, biases, window, stride, padding, ignore_border, mode)

    return rectified_average_pool2d


@_register(RectifiedAveragePool2dGrad, "rectified_average_pool2d_grad")
def _rectified_average_pool2d_grad(op, node, kernel):
    mode = _mode_number(op)

    @numba_njit
    def rectified_average_pool2d_grad(images, biases, maps, window, stride, padding):
        return kernel(images, biases, maps, window, stride, padding, mode)

    return rectified_average_pool2d_grad


@_register(TanhGrad, "tanh_grad")
def _tanh_grad(op, node, kernel):
    @numba_njit
    def tanh_grad(tanhs, tanhs_grad):
        return kernel(tanhs, tanhs_grad)

    return tanh_grad


@_register(CrossMapSum, "cross_map_sum")
def _cross_map_sum(op, node, kernel):
    size, blocked, transposed = np.int64(op.size), np.bool_(op.blocked), np.bool_(op.transposed)

    @numba_njit
    def cross_map_sum(images):
        return kernel(images, size, blocked, transposed)

    return cross_map_sum


@_register(CrossMapNorm, "cross_map_norm")
@_register(CrossMapNormGrad, "cross_map_norm_grad")
def _cross_map_norm(op, node, kernel):
    size, scale, power, blocked = np.int64(op.size), np.float64(op.scale), np.float64(op.power), np.bool_(op.blocked)

    @numba_njit
    def cross_map_norm(*tensors):
        return kernel(*tensors, size, scale, power, blocked)

    return cross_map_norm


@register_funcify_and_cache_key(RationalTanh)
def _rational_tanh(op, node, **kwargs):
    from pytensor_convnet.kernels.cpu.activations import TANH_DENOMINATOR, TANH_MOST, TANH_NUMERATOR

    one, n1, n2, n3, n4 = map(np.float32, TANH_NUMERATOR)
    _, d1, d2, d3, d4 = map(np.float32, TANH_DENOMINATOR)
    half, most = np.float32(0.5), np.float32(TANH_MOST)

    # Python's divisions raise for a divisor of zero, and keep a loop from vectors.
    @numba_njit(error_model="numpy")
    def rational_tanh(x):
        y = half * (most if x > most else (-most if x < -most else x))
        s = y * y
        t = y * (one + s * (n1 + s * (n2 + s * (n3 + s * n4)))) / (one + s * (d1 + s * (d2 + s * (d3 + s * d4))))
        return (t + t) / (one + t * t)

    return rational_tanh, _SOURCE


@register_funcify_and_cache_key(KeptDot)
def _kept_dot(op, node, **kwargs):
    from pytensor_convnet.kernels.cpu.memory import new_array

    dtype = node.outputs[0].type.numpy_dtype
    dot, key = numba_funcify_and_cache_key(Dot(), node)
    if not getattr(dot, "handles_out", False):  # PyTensor's first versions allocate the result themselves
        dot = numba_njit(lambda x, y, out: np.dot(x, y, out))

    @numba_njit
    def kept_dot(x, y):
        return dot(x, y, new_array((x.shape[0], y.shape[1]), dtype))

    return kept_dot, sha256(f"{key} {_cache_key(op, node)}".encode()).hexdigest()


@register_funcify_and_cache_key(OrderedTranspose)
def _ordered_transpose(op, node, **kwargs):
    # PyTensor's own is a view of given strides, whose order Numba does not know.
    @numba_njit
    def ordered_transpose(matrix):
        return matrix.T

    return ordered_transpose, _cache_key(op, node)


def _means_over_processes(tensors):
    from pytensor_convnet.kernels.collectives import all_mean_of_arrays

    return tuple(all_mean_of_arrays(tensors))


@register_funcify_and_cache_key(AllMean)
def _all_mean(op, node, **kwargs):
    # Contiguous, as they come; PyTensor's own way out of compiled code takes any layout, and cannot be cached.
    types = numba.types.Tuple([get_numba_type(output.type, layout="C") for output in node.outputs])
    alone = len(node.outputs) == 1

    @numba_njit
    def all_mean(*tensors):
        with numba.objmode(means=types):
            means = _means_over_processes(tensors)
        return means[0] if alone else means

    facts = "AllMean", [(output.type.dtype, output.type.ndim) for output in node.outputs], _SOURCE
    return all_mean, sha256(repr(facts).encode()).hexdigest()
