"""Correlation of bc01 images with a bank of filters, and its two gradients.

The three Ops are the three contractions of one trilinear form: images, filters and maps (the output) each
follow from the other two. So each is linear in both of its tensors, the gradients of each are the other two,
and derivatives of every order stay within the family.

    Correlate2d(images, filters) -> maps
    Correlate2dInputGrad(filters, maps, rows, columns) -> images
    Correlate2dFilterGrad(images, maps, rows, columns) -> filters
"""

from collections.abc import Sequence
from typing import Any, Literal

import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable

from pytensor_convnet import geometry
from pytensor_convnet.geometry import BorderMode, Length, Padding, Pair
from pytensor_convnet.ops.base import (
    ConvnetOp,
    as_common_floats,
    as_integers,
    check_no_problem,
    pair_name,
)


class Correlation(ConvnetOp):
    """What the three passes share: how filters slide, and that each pass is linear in both of its tensors.

    Parameters
    ----------
    stride, dilation : int or (rows, columns)
    padding : ((top, bottom), (left, right)), (rows, columns), int, 'valid', 'half' or 'full'
        'half' and 'full' follow the filters' shape.
    groups : int
        Channels and filters are split into so many independent groups.
    flip : bool
        Whether the filters are turned by half a turn first, which makes the operation a true convolution.
    """

    __props__ = ("stride", "padding", "dilation", "groups", "flip")

    tensor_count = 2
    filter_ndim = 4
    family: dict[str, type["Correlation"]]
    """The Op types of the three passes, by name."""

    stride: Pair
    padding: Padding | Literal["half", "full"]
    dilation: Pair

    def __init__(
        self,
        stride: Any = 1,
        padding: BorderMode = 0,
        dilation: Any = 1,
        groups: int = 1,
        flip: bool = False,
    ):
        self.stride = geometry.as_pair(stride, "subsample", least=1)
        self.padding = geometry.as_padding(padding)
        self.dilation = geometry.as_pair(dilation, "filter_dilation", least=1)
        self.groups = geometry.as_count(groups, "num_groups", least=1)
        self.flip = bool(flip)

    def __str__(self) -> str:
        said = [
            f"stride={pair_name(self.stride)}" if self.stride != (1, 1) else "",
            f"padding={self.padding}" if self.padding != ((0, 0), (0, 0)) else "",
            f"dilation={pair_name(self.dilation)}" if self.dilation != (1, 1) else "",
            f"groups={self.groups}" if self.groups != 1 else "",
            "flip" if self.flip else "",
        ]
        return f"{type(self).__name__}{{{', '.join(filter(None, said))}}}"

    def partner(self, name: Literal["forward", "input_grad", "filter_grad"]) -> "Correlation":
        """The Op of another pass of the same correlation."""
        return self.family[name](self.stride, self.padding, self.dilation, self.groups, self.flip)

    def forward(self, images: Variable, filters: Variable) -> Variable:
        """The maps of ``images`` and ``filters``."""
        return self.partner("forward")(images, filters)

    def input_grad(self, filters: Variable, maps: Variable, images: Variable) -> Variable:
        """The gradient for ``images``, of which only the shape matters."""
        return self.partner("input_grad")(filters, maps, images.shape[2], images.shape[3])

    def filter_grad(self, images: Variable, maps: Variable, filters: Variable) -> Variable:
        """The gradient for ``filters``, of which only the shape matters."""
        return self.partner("filter_grad")(images, maps, filters.shape[-2], filters.shape[-1])

    def filter_taps(self, inputs: Sequence[Any]) -> tuple[Length, Length]:
        """Rows and columns of the filters, told from this pass's inputs."""
        raise NotImplementedError

    def resolved_padding(self, rows: Length, columns: Length) -> tuple:
        """The padding in numbers, for filters of ``rows`` x ``columns``."""
        return geometry.resolve_padding(self.padding, (rows, columns), self.dilation)

    def map_lengths(self, images: Sequence[Length], filters: Sequence[Length]) -> tuple[Length, Length]:
        """Rows and columns of the maps."""
        padding = self.resolved_padding(filters[-2], filters[-1])
        rows, columns = (
            geometry.correlation_length(
                images[axis - 2],
                filters[axis - 2],
                self.stride[axis],
                padding[axis][0],
                padding[axis][1],
                self.dilation[axis],
            )
            for axis in range(2)
        )
        return rows, columns

    def _window_facts(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups

    def pushforward(self, inputs, outputs, tangents):
        """Linear in each tensor: the sum of the Op with either one replaced by its tangent."""
        terms = []
        for i in range(2):
            if not isinstance(tangents[i].type, DisconnectedType):
                terms.append(self(*inputs[:i], tangents[i], *inputs[i + 1 :]))
        if not terms:
            return [disconnected_type()]
        return [terms[0] if len(terms) == 1 else terms[0] + terms[1]]

    def connection_pattern(self, node):
        return [[i < 2] for i in range(len(node.inputs))]


class Forward(Correlation):
    """The pass from images and filters to maps."""

    batched_input = 0

    def make_node(self, images, filters):
        images, filters = as_common_floats(input=(images, 4), filters=(filters, self.filter_ndim))
        self.check_static(images.type.shape, filters.type.shape)
        [shape] = self.static_output_shapes(images, filters)
        return Apply(self, [images, filters], [pt.tensor(dtype=images.type.dtype, shape=shape)])

    def filter_taps(self, inputs):
        return inputs[1].shape[-2:]

    def check_static(self, images: geometry.Shape, filters: geometry.Shape) -> None:
        """Raise a ValueError if the static shapes do not fit."""
        check_no_problem(geometry.correlation_problem(images, filters, *self._window_facts()))

    def output_shapes(self, shapes, *integers):
        images, filters = shapes
        return [(images[0], filters[0], *self.map_lengths(images, filters))]

    def pullback(self, inputs, outputs, cotangents):
        images, filters = inputs
        [maps] = cotangents
        return [self.input_grad(filters, maps, images), self.filter_grad(images, maps, filters)]


class InputGrad(Correlation):
    """The pass from filters and maps to images of ``rows`` x ``columns``."""

    batched_input = 1

    def make_node(self, filters, maps, rows, columns):
        filters, maps = as_common_floats(filters=(filters, self.filter_ndim), output_grad=(maps, 4))
        rows, columns = as_integers(rows, "rows"), as_integers(columns, "columns")
        [shape] = self.static_output_shapes(filters, maps, rows, columns)
        problem = geometry.maps_problem(shape, filters.type.shape, maps.type.shape, *self._window_facts())
        check_no_problem(problem)
        output = pt.tensor(dtype=maps.type.dtype, shape=shape)
        return Apply(self, [filters, maps, rows, columns], [output])

    def filter_taps(self, inputs):
        return inputs[0].shape[-2:]

    def output_shapes(self, shapes, *integers):
        filters, maps = shapes
        return [(maps[0], filters[-3] * self.groups, *integers)]

    def pullback(self, inputs, outputs, cotangents):
        filters, maps, _, _ = inputs
        [images] = cotangents
        gradients = [self.filter_grad(images, maps, filters), self.forward(images, filters)]
        return [*gradients, disconnected_type(), disconnected_type()]


class FilterGrad(Correlation):
    """The pass from images and maps to filters of ``rows`` x ``columns``."""

    def make_node(self, images, maps, rows, columns):
        images, maps = as_common_floats(input=(images, 4), output_grad=(maps, 4))
        rows, columns = as_integers(rows, "rows"), as_integers(columns, "columns")
        [shape] = self.static_output_shapes(images, maps, rows, columns)
        problem = geometry.maps_problem(images.type.shape, shape, maps.type.shape, *self._window_facts())
        check_no_problem(problem)
        output = pt.tensor(dtype=maps.type.dtype, shape=shape)
        return Apply(self, [images, maps, rows, columns], [output])

    def filter_taps(self, inputs):
        return inputs[2:]

    def output_shapes(self, shapes, *integers):
        images, maps = shapes
        return [(maps[1], images[1] // self.groups, *integers)]

    def pullback(self, inputs, outputs, cotangents):
        images, maps, _, _ = inputs
        [filters] = cotangents
        gradients = [self.input_grad(filters, maps, images), self.forward(images, filters)]
        return [*gradients, disconnected_type(), disconnected_type()]


class Correlate2d(Forward):
    """Correlate images with filters.

    ``maps[b, f, y, x] = sum over c, i, j of images[b, c, y * stride + i * dilation - top, ...] *
    filters[f, c, i, j]``, pixels outside the image counting as zero; `reference.correlate2d` is the definition.
    Images are (batch, channels, rows, columns), filters (filters, channels // groups, rows, columns).
    """

    gufunc_signature = "(b,c,h,w),(f,k,r,s)->(b,f,y,x)"


class Correlate2dInputGrad(InputGrad):
    """The gradient of `Correlate2d` for its images; also known as transposed convolution."""

    gufunc_signature = "(f,k,r,s),(b,f,y,x),(),()->(b,c,h,w)"


class Correlate2dFilterGrad(FilterGrad):
    """The gradient of `Correlate2d` for its filters."""

    gufunc_signature = "(b,c,h,w),(b,f,y,x),(),()->(f,k,r,s)"


_FAMILY: dict[str, type[Correlation]] = {
    "forward": Correlate2d,
    "input_grad": Correlate2dInputGrad,
    "filter_grad": Correlate2dFilterGrad,
}
for _member in _FAMILY.values():
    _member.family = _FAMILY
