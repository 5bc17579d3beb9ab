"""Correlation and max pooling as one step, so that the full-resolution maps between them never reach memory.

    CorrelateMaxPool2d(images, filters, biases) -> maxima, winners
    CorrelateMaxPool2dInputGrad(filters, winners, maps) -> images
    CorrelateMaxPool2dFilterGrad(images, winners, maps) -> filters
    CorrelateMaxPool2dBiasGrad(winners, maps) -> biases

Each is a composition of other Ops, and its definition is theirs: `MaxPool2d` of `Correlate2d`, of which the maxima are
biased and activated, and the gradients of `Correlate2d` for maps that `MaxPool2dGrad` scatters. ``maps`` have the
pooled shape and are the gradient of the maxima before these were biased and activated; the rows and columns of the
unpooled maps are given as integers, since windows alone do not tell them. Users do not build these Ops; rewrites do.
"""

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply

from pytensor_convnet import geometry
from pytensor_convnet.geometry import Shape
from pytensor_convnet.ops.base import (
    INTEGERS,
    ConvnetOp,
    as_common_floats,
    as_images,
    as_integers,
    check_no_problem,
    known_values,
)
from pytensor_convnet.ops.correlation import Correlate2d
from pytensor_convnet.ops.pooling import (
    MaxPool2d,
    MaxPool2dGather,
    as_windows,
    check_static_pooled,
    check_static_windows,
    winners_dtype,
)

_SLOPES = {
    "identity": lambda y: None,
    "relu": lambda y: (y > 0).astype(y.dtype),
    "muting_relu": lambda y: (y > 0).astype(y.dtype),
    "tanh": lambda y: 1 - y * y,
}
"""Of each activation, its derivative as a function of its value; ``None`` for one."""

NO_TAP = -1
"""The winner, cast to the dtype of winners, of a window from which gradients scatter nothing."""


class CorrelateMaxPool2d(ConvnetOp):
    """The maximum of every window of correlation maps, biased and activated, and its winner.

    ``CorrelateMaxPool2d(correlation, pooling)(images, filters, biases, *windows)`` is ``pooling(correlation(images,
    filters), *windows)``, to whose maxima the bias of their filter is added;
    `reference.correlate2d_max_pool2d` is the definition.

    Parameters
    ----------
    correlation : Correlate2d
    pooling : MaxPool2d
    activation : {'identity', 'relu', 'muting_relu', 'tanh'}
        What the biased maxima are replaced by; tanh is for float32. A muting rectifier is for functions that only need
        the gradient: where it made a maximum zero that was negative, or meets NaN, the winner is `NO_TAP`.

    Raises
    ------
    ValueError
        For an unknown activation; in `make_node` for tensors that do not fit, or float64 to be activated by tanh.
    """

    __props__ = ("correlation", "pooling", "activation")
    gufunc_signature = "(b,c,h,w),(f,k,r,s),(f),(p),(p),(p,p)->(b,f,y,x),(b,f,y,x)"
    tensor_count = 3
    batched_input = 0

    def __init__(self, correlation: Correlate2d, pooling: MaxPool2d, activation: str = "identity"):
        if activation not in _SLOPES:
            raise ValueError(f"activation must be one of {', '.join(_SLOPES)}, not {activation!r}")
        self.correlation = correlation
        self.pooling = pooling
        self.activation = activation

    def __str__(self):
        return f"{type(self).__name__}{{{self.correlation}, {self.pooling}, {self.activation}}}"

    def make_node(self, images, filters, biases, window, stride, padding):
        images, filters, biases = as_common_floats(input=(images, 4), filters=(filters, 4), biases=(biases, 1))
        if self.activation == "tanh" and images.type.dtype != "float32":
            raise ValueError(f"activation tanh is for float32, but input and filters make {images.type.dtype}")
        lengths = biases.type.shape[0], filters.type.shape[0]
        if None not in lengths and lengths[0] != lengths[1]:
            raise ValueError(f"biases must hold a number for each of the {lengths[1]} filters, not {lengths[0]}")
        windows = as_windows(window, stride, padding)
        self.correlation.check_static(images.type.shape, filters.type.shape)
        [maps] = self.correlation.static_output_shapes(images, filters)
        check_static_windows(maps, windows, self.pooling.ignore_border)
        shape, _ = self.static_output_shapes(images, filters, biases, *windows)
        maxima = pt.tensor(dtype=images.type.dtype, shape=shape)
        winners = pt.tensor(dtype=winners_dtype(windows[0]), shape=shape)
        return Apply(self, [images, filters, biases, *windows], [maxima, winners])

    def output_shapes(self, shapes, *integers):
        return self.pooling.output_shapes(self.correlation.output_shapes(shapes[:2]), *integers)

    def connection_pattern(self, node):
        return [*[[True, False]] * 3, *[[False, False]] * 3]

    def _through_activation(self, maxima, tangent):
        slope = _SLOPES[self.activation](maxima)
        return tangent if slope is None else tangent * slope

    def pullback(self, inputs, outputs, cotangents):
        images, filters, _, *windows = inputs
        maps, _ = cotangents
        if isinstance(maps.type, DisconnectedType):
            return [disconnected_type() for _ in inputs]
        maps = self._through_activation(outputs[0], maps)
        full = self.correlation.map_lengths([*images.shape], [*filters.shape])
        scattered = outputs[1], maps
        return [
            CorrelateMaxPool2dInputGrad(self.correlation)(filters, *scattered, *images.shape[2:], *full, *windows),
            CorrelateMaxPool2dFilterGrad(self.correlation)(images, *scattered, *filters.shape[2:], *full, *windows),
            maps.sum(axis=(0, 2, 3)),
            *(disconnected_type() for _ in windows),
        ]

    def pushforward(self, inputs, outputs, tangents):
        windows = inputs[3:]
        if self.activation == "muting_relu":
            frank = type(self)(self.correlation, self.pooling, "relu")
            return frank.pushforward(inputs, frank(*inputs), tangents)
        maps = self.correlation.pushforward(inputs[:2], outputs, tangents[:2])[0]
        terms = []
        if not isinstance(maps.type, DisconnectedType):
            terms.append(MaxPool2dGather()(maps, outputs[1], *windows))
        if not isinstance(tangents[2].type, DisconnectedType):
            terms.append(pt.zeros_like(outputs[0]) + tangents[2][:, None, None])
        if not terms:
            return [disconnected_type(), disconnected_type()]
        return [self._through_activation(outputs[0], sum(terms[1:], terms[0])), disconnected_type()]


class CorrelateMaxPool2dGrad(ConvnetOp):
    """What both gradients share: a tensor, and pooled ``maps`` that ``winners`` scatter over unpooled maps.

    The inputs are the tensor, winners, maps, rows and columns of the output, rows and columns of the unpooled maps,
    window, stride and padding.

    Parameters
    ----------
    correlation : Correlate2d
        The forward Op.
    """

    __props__ = ("correlation",)
    tensor_count = 3
    tensor_name: str

    def __init__(self, correlation: Correlate2d):
        self.correlation = correlation

    def __str__(self):
        return f"{type(self).__name__}{{{self.correlation}}}"

    def images_and_filters(self, tensor: Shape, output: Shape) -> tuple[Shape, Shape]:
        """The shapes of the correlation's operands, one of which is the tensor and one the output."""
        raise NotImplementedError

    def make_node(self, tensor, winners, maps, rows, columns, map_rows, map_columns, window, stride, padding):
        tensor, maps = as_common_floats(**{self.tensor_name: (tensor, 4), "output_grad": (maps, 4)})
        winners = as_images(winners, "winners", INTEGERS)
        lengths = {"rows": rows, "columns": columns, "map_rows": map_rows, "map_columns": map_columns}
        integers = [as_integers(length, name) for name, length in lengths.items()]
        windows = as_windows(window, stride, padding)
        [shape] = self.static_output_shapes(tensor, winners, maps, *integers, *windows)
        self._check_static(tensor, winners, maps, shape, integers[2:], windows)
        output = pt.tensor(dtype=maps.type.dtype, shape=shape)
        return Apply(self, [tensor, winners, maps, *integers, *windows], [output])

    def _check_static(self, tensor, winners, maps, shape, map_lengths, windows) -> None:
        """Raise a ValueError if the static shapes do not fit."""
        full = (*maps.type.shape[:2], *map(known_values, map_lengths))
        images, filters = self.images_and_filters(tensor.type.shape, shape)
        facts = self.correlation
        problem = geometry.maps_problem(
            images, filters, full, facts.stride, facts.padding, facts.dilation, facts.groups
        )
        check_no_problem(problem)
        for pooled in (winners, maps):
            check_static_pooled(full, pooled.type.shape, windows)

    def connection_pattern(self, node):
        return [[i in (0, 2)] for i in range(10)]

    def pushforward(self, inputs, outputs, tangents):
        """Linear in the tensor and in the maps."""
        terms = []
        for i in (0, 2):
            if not isinstance(tangents[i].type, DisconnectedType):
                terms.append(self(*inputs[:i], tangents[i], *inputs[i + 1 :]))
        if not terms:
            return [disconnected_type()]
        return [terms[0] if len(terms) == 1 else terms[0] + terms[1]]


class CorrelateMaxPool2dInputGrad(CorrelateMaxPool2dGrad):
    """The gradient of `CorrelateMaxPool2d` for its images, as `reference.correlate2d_max_pool2d_input_grad` is."""

    gufunc_signature = "(f,k,r,s),(b,f,y,x),(b,f,y,x),(),(),(),(),(p),(p),(p,p)->(b,c,h,w)"
    tensor_name = "filters"

    def images_and_filters(self, tensor, output):
        return output, tensor

    def output_shapes(self, shapes, *integers):
        filters, _, maps = shapes
        return self.correlation.partner("input_grad").output_shapes([filters, maps], *integers[:2])

    def pullback(self, inputs, outputs, cotangents):
        filters, winners, maps, _, _, *integers = inputs
        [images] = cotangents
        filter_grad = CorrelateMaxPool2dFilterGrad(self.correlation)
        picked = MaxPool2dGather()(self.correlation(images, filters), winners, *integers[2:])
        gradient = filter_grad(images, winners, maps, *filters.shape[2:], *integers)
        return [gradient, disconnected_type(), picked, *(disconnected_type() for _ in inputs[3:])]


class CorrelateMaxPool2dFilterGrad(CorrelateMaxPool2dGrad):
    """The gradient of `CorrelateMaxPool2d` for its filters, as `reference.correlate2d_max_pool2d_filter_grad` is."""

    gufunc_signature = "(b,c,h,w),(b,f,y,x),(b,f,y,x),(),(),(),(),(p),(p),(p,p)->(f,k,r,s)"
    tensor_name = "input"

    def images_and_filters(self, tensor, output):
        return tensor, output

    def output_shapes(self, shapes, *integers):
        images, _, maps = shapes
        return self.correlation.partner("filter_grad").output_shapes([images, maps], *integers[:2])

    def pullback(self, inputs, outputs, cotangents):
        images, winners, maps, _, _, *integers = inputs
        [filters] = cotangents
        input_grad = CorrelateMaxPool2dInputGrad(self.correlation)
        picked = MaxPool2dGather()(self.correlation(images, filters), winners, *integers[2:])
        gradient = input_grad(filters, winners, maps, *images.shape[2:], *integers)
        return [gradient, disconnected_type(), picked, *(disconnected_type() for _ in inputs[3:])]


class CorrelateMaxPool2dBiasGrad(ConvnetOp):
    """The gradient of a muting `CorrelateMaxPool2d` for its biases, given ``maps``, that of its activated maxima.

    A sum over batch and windows, those left out whose winner is `NO_TAP`.
    """

    __props__ = ()
    gufunc_signature = "(b,f,y,x),(b,f,y,x)->(f)"
    tensor_count = 2

    def make_node(self, winners, maps):
        winners, maps = as_images(winners, "winners", INTEGERS), as_images(maps, "output_grad")
        [shape] = self.static_output_shapes(winners, maps)
        return Apply(self, [winners, maps], [pt.tensor(dtype=maps.type.dtype, shape=shape)])

    def output_shapes(self, shapes):
        return [(shapes[1][1],)]

    def connection_pattern(self, node):
        return [[False], [True]]

    def _shown(self, winners, maps):
        return pt.switch(pt.neq(winners, np.array(NO_TAP).astype(winners.type.dtype)), maps, 0).astype(maps.type.dtype)

    def pullback(self, inputs, outputs, cotangents):
        winners, maps = inputs
        [biases] = cotangents
        return [disconnected_type(), self._shown(winners, pt.zeros_like(maps) + biases[:, None, None])]

    def pushforward(self, inputs, outputs, tangents):
        connected = not isinstance(tangents[1].type, DisconnectedType)
        return [self(inputs[0], tangents[1]) if connected else disconnected_type()]
