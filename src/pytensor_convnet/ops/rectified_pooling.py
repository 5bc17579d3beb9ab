"""Average pooling of rectified, biased maps as one step, so that neither the biased nor the rectified maps are written.

    RectifiedAveragePool2d(images, biases) -> maps
    RectifiedAveragePool2dGrad(images, biases, maps) -> images, biases

Each is a composition of other operations, and its definition is theirs: `AveragePool2d` of ``maximum(images + biases,
0)``, and the gradients of that for images and biases, given ``maps``, the gradient of the pooled maps. Users do not
build these Ops; rewrites do.
"""

import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable

from pytensor_convnet.ops.base import as_common_floats
from pytensor_convnet.ops.pooling import (
    AveragePool,
    AveragePool2d,
    as_windows,
    check_static_pooled,
    check_static_windows,
    pooled_lengths,
)


def _check_static_biases(images: Variable, biases: Variable) -> None:
    """Raise a ValueError if there is not one bias for each channel."""
    channels, count = images.type.shape[1], biases.type.shape[0]
    if None not in (channels, count) and channels != count:
        raise ValueError(f"biases must hold a number for each of the {channels} channels, not {count}")


def _pooled_where_shown(op: AveragePool, inputs: list[Variable], *tangents: Variable) -> Variable:
    """Tangents of images and of biases, as far as connected, added, muted as the images are, and pooled.

    This is the derivative of the one Op, and the adjoint of the other.
    """
    images, biases, *windows = inputs
    of_images, of_biases = tangents
    terms = [] if _is_disconnected(of_images) else [of_images]
    terms += [] if _is_disconnected(of_biases) else [of_biases[:, None, None]]
    if not terms:
        return disconnected_type()
    shown = pt.switch(pt.ge(images + biases[:, None, None], 0), sum(terms[1:], terms[0]), 0)
    return AveragePool2d(op.mode, op.ignore_border)(shown.astype(images.type.dtype), *windows)


def _is_disconnected(variable: Variable) -> bool:
    return isinstance(variable.type, DisconnectedType)


class RectifiedAveragePool2d(AveragePool):
    """The average (or sum) of every window of images that were biased and rectified.

    ``RectifiedAveragePool2d(mode, ignore_border)(images, biases, *windows)`` is ``AveragePool2d(mode, ignore_border)(
    maximum(images + biases[:, None, None], 0), *windows)``; `reference.rectified_average_pool2d` is the definition.

    Parameters
    ----------
    mode, ignore_border
        As `AveragePool2d` has them.

    Raises
    ------
    ValueError
        In `make_node`, for tensors and windows that do not fit.
    """

    gufunc_signature = "(b,c,h,w),(c),(p),(p),(p,p)->(b,c,y,x)"
    tensor_count = 2

    def make_node(self, images, biases, window, stride, padding):
        images, biases = as_common_floats(input=(images, 4), biases=(biases, 1))
        windows = as_windows(window, stride, padding)
        _check_static_biases(images, biases)
        check_static_windows(images.type.shape, windows, self.ignore_border)
        [shape] = self.static_output_shapes(images, biases, *windows)
        return Apply(self, [images, biases, *windows], [pt.tensor(dtype=images.type.dtype, shape=shape)])

    def output_shapes(self, shapes, *integers):
        images, _ = shapes
        return [(*images[:2], *pooled_lengths(images, integers, self.ignore_border))]

    def connection_pattern(self, node):
        return [[i < 2] for i in range(5)]

    def pullback(self, inputs, outputs, cotangents):
        images, biases, *windows = inputs
        gradient = RectifiedAveragePool2dGrad(self.mode, self.ignore_border)
        return [*gradient(images, biases, cotangents[0], *windows), *(disconnected_type() for _ in windows)]

    def pushforward(self, inputs, outputs, tangents):
        return [_pooled_where_shown(self, inputs, *tangents[:2])]


class RectifiedAveragePool2dGrad(AveragePool):
    """The gradients of `RectifiedAveragePool2d` for images and biases, given that of its maps.

    That of the biases is the sum of that of the images, over batch, rows and columns. As the gradient of PyTensor's
    ``maximum(x, 0)`` does, they pass where a biased image is exactly zero; where it is NaN they do not.
    """

    gufunc_signature = "(b,c,h,w),(c),(b,c,y,x),(p),(p),(p,p)->(b,c,h,w),(c)"
    tensor_count = 3
    batched_input = None

    def make_node(self, images, biases, maps, window, stride, padding):
        images, biases, maps = as_common_floats(input=(images, 4), biases=(biases, 1), output_grad=(maps, 4))
        windows = as_windows(window, stride, padding)
        _check_static_biases(images, biases)
        check_static_pooled(images.type.shape, maps.type.shape, windows)
        shapes = self.static_output_shapes(images, biases, maps, *windows)
        outputs = [pt.tensor(dtype=images.type.dtype, shape=shape) for shape in shapes]
        return Apply(self, [images, biases, maps, *windows], outputs)

    def output_shapes(self, shapes, *integers):
        return [tuple(shapes[0]), (shapes[0][1],)]

    def connection_pattern(self, node):
        return [[i == 2] * 2 for i in range(6)]

    def pullback(self, inputs, outputs, cotangents):
        pooled = _pooled_where_shown(self, [*inputs[:2], *inputs[3:]], *cotangents)
        return [pooled if i == 2 else disconnected_type() for i in range(6)]

    def pushforward(self, inputs, outputs, tangents):
        if _is_disconnected(tangents[2]):
            return [disconnected_type(), disconnected_type()]
        return self(*inputs[:2], tangents[2], *inputs[3:])
