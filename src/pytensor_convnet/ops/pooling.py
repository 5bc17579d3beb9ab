"""Pooling of bc01 images over windows of their last two axes, and its gradients.

Max pooling keeps two things: the maxima and the *winners*, where in its window each maximum lies. Everything
after that follows the winners, without looking at the images again:

    MaxPool2d(images) -> maxima, winners
    MaxPool2dMaxima(images) -> maxima           when nothing follows the winners
    MaxPool2dGrad(winners, maps) -> images      scatter each value to the pixel that won
    MaxPool2dGather(images, winners) -> maps    pick at each winner; the adjoint of the scatter

A tie goes whole to the first maximum in row-major order, as in cuDNN and torch. (Theano's gradient went to
every tied pixel, which hands back more gradient than the window received; after a rectifier whole windows tie.)

Window, stride and padding are inputs, not properties of an Op: they may be symbolic.
"""

from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable

from pytensor_convnet import geometry
from pytensor_convnet.geometry import Length
from pytensor_convnet.ops.base import (
    FLOATS,
    INTEGERS,
    ConvnetOp,
    as_images,
    as_integers,
    check_no_problem,
    known_values,
)

MAX_DTYPES = (*FLOATS, "bool", *INTEGERS)
"""What max pooling takes; the other operations take floats."""

AVERAGE_MODES = ("sum", "average_inc_pad", "average_exc_pad")


def as_windows(window: Any, stride: Any, padding: Any) -> tuple[Variable, Variable, Variable]:
    """Window and stride as int64 vectors (rows, columns), padding as ((top, bottom), (left, right))."""
    return (
        as_integers(window, "ws", (2,)),
        as_integers(stride, "stride", (2,)),
        as_integers(padding, "pad", (2, 2)),
    )


def winners_dtype(window: Variable) -> str:
    """One byte suffices for a winner while the window is known to have at most 256 taps."""
    rows, columns = known_values(window)
    return "uint8" if rows is not None and columns is not None and rows * columns <= 256 else "int64"


def pooled_lengths(images, windows, ignore_border: bool) -> tuple[Length, Length]:
    """Rows and columns of the pooled maps; ``windows`` are window, stride and padding."""
    window, stride, padding = windows
    rows, columns = (
        geometry.pool_length(
            images[axis + 2], window[axis], stride[axis], padding[axis][0], padding[axis][1], ignore_border
        )
        for axis in range(2)
    )
    return rows, columns


def check_static_windows(images: geometry.Shape, windows: tuple[Variable, ...], ignore_border: bool) -> None:
    """Raise a ValueError if windows cannot slide over images of shape ``images``."""
    window, stride, padding = map(known_values, windows)
    check_no_problem(geometry.pool_problem(images, window, stride, padding, ignore_border))


def check_static_pooled(images: geometry.Shape, pooled: geometry.Shape, windows: tuple[Variable, ...]) -> None:
    """Raise a ValueError if maps of shape ``pooled`` cannot have been pooled from ``images``."""
    check_no_problem(geometry.pooled_problem(images, pooled, *map(known_values, windows)))


class MaxPool2d(ConvnetOp):
    """The maximum of every window and its winner.

    ``maxima[b, c, y, x]`` is the largest pixel of the window that starts at ``(y * stride - top, x * stride -
    left)``; ``winners[b, c, y, x]`` is its position in that window, ``i * window columns + j``, one byte while
    windows have at most 256 taps. Padding never wins; NaN does. `reference.max_pool2d` is the definition.

    Parameters
    ----------
    ignore_border : bool
        Whether windows that hang over the (padded) edge are left out.
    """

    __props__ = ("ignore_border",)
    gufunc_signature = "(b,c,h,w),(p),(p),(p,p)->(b,c,y,x),(b,c,y,x)"
    tensor_count = 1
    batched_input = 0

    def __init__(self, ignore_border: bool = True):
        self.ignore_border = bool(ignore_border)

    def make_node(self, images, window, stride, padding):
        images = as_images(images, "input", MAX_DTYPES)
        windows = as_windows(window, stride, padding)
        check_static_windows(images.type.shape, windows, self.ignore_border)
        shape, _ = self.static_output_shapes(images, *windows)
        maxima = pt.tensor(dtype=images.type.dtype, shape=shape)
        winners = pt.tensor(dtype=winners_dtype(windows[0]), shape=shape)
        return Apply(self, [images, *windows], [maxima, winners])

    def output_shapes(self, shapes, *integers):
        [images] = shapes
        shape = (*images[:2], *pooled_lengths(images, integers, self.ignore_border))
        return [shape, shape]

    def connection_pattern(self, node):
        return [[True, False], *[[False, False]] * 3]

    def pullback(self, inputs, outputs, cotangents):
        images, *windows = inputs
        maps, _ = cotangents
        if isinstance(maps.type, DisconnectedType):
            return [disconnected_type() for _ in inputs]
        gradient = MaxPool2dGrad()(outputs[1], maps, images.shape[2], images.shape[3], *windows)
        return [gradient, *(disconnected_type() for _ in windows)]

    def pushforward(self, inputs, outputs, tangents):
        _, *windows = inputs
        if isinstance(tangents[0].type, DisconnectedType):
            return [disconnected_type(), disconnected_type()]
        return [MaxPool2dGather()(tangents[0], outputs[1], *windows), disconnected_type()]


class MaxPool2dMaxima(ConvnetOp):
    """`MaxPool2d` without the winners, for graphs that do not read them."""

    __props__ = ("ignore_border",)
    gufunc_signature = "(b,c,h,w),(p),(p),(p,p)->(b,c,y,x)"
    tensor_count = 1
    batched_input = 0

    def __init__(self, ignore_border: bool = True):
        self.ignore_border = bool(ignore_border)

    def make_node(self, images, window, stride, padding):
        node = MaxPool2d(self.ignore_border).make_node(images, window, stride, padding)
        return Apply(self, node.inputs, [node.outputs[0].type()])

    def output_shapes(self, shapes, *integers):
        return MaxPool2d(self.ignore_border).output_shapes(shapes, *integers)[:1]

    def connection_pattern(self, node):
        return [[i == 0] for i in range(4)]

    def pullback(self, inputs, outputs, cotangents):
        pooled = MaxPool2d(self.ignore_border)(*inputs)
        return MaxPool2d(self.ignore_border).pullback(inputs, pooled, [cotangents[0], disconnected_type()])

    def pushforward(self, inputs, outputs, tangents):
        pooled = MaxPool2d(self.ignore_border)(*inputs)
        return MaxPool2d(self.ignore_border).pushforward(inputs, pooled, tangents)[:1]


class MaxPool2dGrad(ConvnetOp):
    """Scatter maps to the pixels that won, in images of ``rows`` x ``columns``: the gradient of `MaxPool2d`."""

    __props__ = ()
    gufunc_signature = "(b,c,y,x),(b,c,y,x),(),(),(p),(p),(p,p)->(b,c,h,w)"
    tensor_count = 2

    def make_node(self, winners, maps, rows, columns, window, stride, padding):
        winners = as_images(winners, "winners", INTEGERS)
        maps = as_images(maps, "output_grad")
        rows, columns = as_integers(rows, "rows"), as_integers(columns, "columns")
        windows = as_windows(window, stride, padding)
        [shape] = self.static_output_shapes(winners, maps, rows, columns, *windows)
        for pooled in (winners, maps):
            check_static_pooled(shape, pooled.type.shape, windows)
        output = pt.tensor(dtype=maps.type.dtype, shape=shape)
        return Apply(self, [winners, maps, rows, columns, *windows], [output])

    def output_shapes(self, shapes, *integers):
        _, maps = shapes
        return [(*maps[:2], *integers[:2])]

    def connection_pattern(self, node):
        return [[i == 1] for i in range(7)]

    def pullback(self, inputs, outputs, cotangents):
        winners, _, _, _, *windows = inputs
        gradient = MaxPool2dGather()(cotangents[0], winners, *windows)
        return [gradient if i == 1 else disconnected_type() for i in range(7)]

    def pushforward(self, inputs, outputs, tangents):
        if isinstance(tangents[1].type, DisconnectedType):
            return [disconnected_type()]
        return [self(inputs[0], tangents[1], *inputs[2:])]


class MaxPool2dGather(ConvnetOp):
    """Pick images at the pixels that won: the gradient of `MaxPool2dGrad`."""

    __props__ = ()
    gufunc_signature = "(b,c,h,w),(b,c,y,x),(p),(p),(p,p)->(b,c,y,x)"
    tensor_count = 2

    def make_node(self, images, winners, window, stride, padding):
        images = as_images(images, "input")
        winners = as_images(winners, "winners", INTEGERS)
        windows = as_windows(window, stride, padding)
        check_static_pooled(images.type.shape, winners.type.shape, windows)
        output = pt.tensor(dtype=images.type.dtype, shape=winners.type.shape)
        return Apply(self, [images, winners, *windows], [output])

    def output_shapes(self, shapes, *integers):
        return [tuple(shapes[1])]

    def connection_pattern(self, node):
        return [[i == 0] for i in range(5)]

    def pullback(self, inputs, outputs, cotangents):
        images, winners, *windows = inputs
        gradient = MaxPool2dGrad()(winners, cotangents[0], images.shape[2], images.shape[3], *windows)
        return [gradient if i == 0 else disconnected_type() for i in range(5)]

    def pushforward(self, inputs, outputs, tangents):
        if isinstance(tangents[0].type, DisconnectedType):
            return [disconnected_type()]
        return [self(tangents[0], *inputs[1:])]


class AveragePool(ConvnetOp):
    """What average pooling and its gradient share.

    Parameters
    ----------
    mode : {'average_inc_pad', 'average_exc_pad', 'sum'}
        Whether the average counts pixels in the padding; or no average at all.
    ignore_border : bool
        Whether windows that hang over the (padded) edge are left out.
    """

    __props__ = ("mode", "ignore_border")
    tensor_count = 1
    batched_input: int | None = 0

    def __init__(self, mode: str = "average_inc_pad", ignore_border: bool = True):
        if mode not in AVERAGE_MODES:
            raise ValueError(f"mode must be one of {', '.join(AVERAGE_MODES)}, got {mode!r}")
        self.mode = mode
        self.ignore_border = bool(ignore_border)

    def connection_pattern(self, node):
        return [[i == 0] for i in range(len(node.inputs))]

    def pushforward(self, inputs, outputs, tangents):
        if isinstance(tangents[0].type, DisconnectedType):
            return [disconnected_type()]
        return [self(tangents[0], *inputs[1:])]


class AveragePool2d(AveragePool):
    """The average (or sum) of every window; `reference.average_pool2d` is the definition."""

    gufunc_signature = "(b,c,h,w),(p),(p),(p,p)->(b,c,y,x)"

    def make_node(self, images, window, stride, padding):
        images = as_images(images, "input")
        windows = as_windows(window, stride, padding)
        check_static_windows(images.type.shape, windows, self.ignore_border)
        [shape] = self.static_output_shapes(images, *windows)
        return Apply(self, [images, *windows], [pt.tensor(dtype=images.type.dtype, shape=shape)])

    def output_shapes(self, shapes, *integers):
        [images] = shapes
        return [(*images[:2], *pooled_lengths(images, integers, self.ignore_border))]

    def pullback(self, inputs, outputs, cotangents):
        images, *windows = inputs
        gradient = AveragePool2dGrad(self.mode, self.ignore_border)
        spread = gradient(cotangents[0], images.shape[2], images.shape[3], *windows)
        return [spread, *(disconnected_type() for _ in windows)]


class AveragePool2dGrad(AveragePool):
    """Spread maps over their windows, in images of ``rows`` x ``columns``: the gradient of `AveragePool2d`."""

    gufunc_signature = "(b,c,y,x),(),(),(p),(p),(p,p)->(b,c,h,w)"

    def make_node(self, maps, rows, columns, window, stride, padding):
        maps = as_images(maps, "output_grad")
        rows, columns = as_integers(rows, "rows"), as_integers(columns, "columns")
        windows = as_windows(window, stride, padding)
        [shape] = self.static_output_shapes(maps, rows, columns, *windows)
        check_static_pooled(shape, maps.type.shape, windows)
        output = pt.tensor(dtype=maps.type.dtype, shape=shape)
        return Apply(self, [maps, rows, columns, *windows], [output])

    def output_shapes(self, shapes, *integers):
        [maps] = shapes
        return [(*maps[:2], *integers[:2])]

    def pullback(self, inputs, outputs, cotangents):
        _, _, _, *windows = inputs
        average = AveragePool2d(self.mode, self.ignore_border)
        return [average(cotangents[0], *windows), *(disconnected_type() for _ in inputs[1:])]
