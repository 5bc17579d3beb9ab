"""Local response normalisation: each map is divided by a power of its neighbours' energy.

    denominators = 1 + scale * (sum of the squares of neighbouring maps)
    CrossMapNorm(images) = images / denominators ** power

    CrossMapNorm(images) -> maps
    CrossMapNormGrad(images, maps) -> images     the gradient, given that of the output
    CrossMapSum(images) -> maps                  the sum over neighbours, of which derivatives of higher order are made

Not blocked, the neighbours of map ``f`` are the ``size`` maps from ``f - size // 2`` on; blocked, those of its block of
``size`` maps. At the ends there are fewer. This is ``convResponseNormCrossMap`` of A. Krizhevsky's cuda-convnet2
(2014), and for odd ``size`` section 3.3 of A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with
deep convolutional neural networks" (2012), with their k = 1.
"""

import math
from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable

from pytensor_convnet.geometry import as_count, normalised_problem
from pytensor_convnet.ops.base import ConvnetOp, as_common_floats, as_images, check_no_problem


class CrossMapSum(ConvnetOp):
    """The sum over each map's neighbours; `reference.cross_map_sum` is the definition.

    Parameters
    ----------
    size : int
        How many neighbours a map has, itself included.
    blocked : bool
        Whether neighbours are those of a block.
    transposed : bool
        Whether to sum over those maps whose neighbour it is instead: the adjoint.
    """

    __props__ = ("size", "blocked", "transposed")
    gufunc_signature = "(b,c,h,w)->(b,c,h,w)"
    tensor_count = 1
    batched_input = 0

    def __init__(self, size: int, blocked: bool = False, transposed: bool = False):
        self.size = as_count(size, "size", least=1)
        self.blocked = bool(blocked)
        self.transposed = bool(transposed)

    def adjoint(self) -> "CrossMapSum":
        return CrossMapSum(self.size, self.blocked, not self.transposed)

    def make_node(self, images):
        images = as_images(images, "input")
        return Apply(self, [images], [images.type()])

    def output_shapes(self, shapes, *integers):
        return [tuple(shapes[0])]

    def pullback(self, inputs, outputs, cotangents):
        return [self.adjoint()(cotangents[0])]

    def pushforward(self, inputs, outputs, tangents):
        if isinstance(tangents[0].type, DisconnectedType):
            return [disconnected_type()]
        return [self(tangents[0])]


class Normalisation(ConvnetOp):
    """What `CrossMapNorm` and its gradient share.

    Parameters
    ----------
    size : int
        How many neighbours a map has, itself included.
    scale : float
        The weight of their energy.
    power : float
        The power of the denominator.
    blocked : bool
        Whether neighbours are those of a block.
    """

    __props__ = ("size", "scale", "power", "blocked")

    def __init__(self, size: int, scale: float, power: float, blocked: bool = False):
        self.size = as_count(size, "size", least=1)
        self.scale, self.power = finite(scale, "scale"), finite(power, "power")
        self.blocked = bool(blocked)

    @property
    def neighbours(self) -> CrossMapSum:
        return CrossMapSum(self.size, self.blocked)

    def denominators(self, images: Variable) -> Variable:
        """What `CrossMapNorm` raises to ``power`` and divides by."""
        return 1 + self._number(self.scale, images) * self.neighbours(images**2)

    def _number(self, value: float, like: Variable) -> Variable:
        """A constant that leaves float32 images float32."""
        return pt.constant(value, dtype=like.type.dtype)

    def directional_derivative(self, images: Variable, tangent: Variable) -> Variable:
        """How the output of `CrossMapNorm` changes as ``images`` move along ``tangent``."""
        d, p = self.denominators(images), self._number(self.power, images)
        mixed = self.neighbours(images * tangent)
        factor = self._number(2 * self.scale * self.power, images)
        return tangent * d**-p - factor * images * d ** (-p - 1) * mixed


class CrossMapNorm(Normalisation):
    """Normalise each map by its neighbours' energy; `reference.cross_map_norm` is the definition."""

    gufunc_signature = "(b,c,h,w)->(b,c,h,w)"
    tensor_count = 1
    batched_input = 0

    def make_node(self, images):
        images = as_images(images, "input")
        return Apply(self, [images], [images.type()])

    def output_shapes(self, shapes, *integers):
        return [tuple(shapes[0])]

    def pullback(self, inputs, outputs, cotangents):
        return [CrossMapNormGrad(*self._props())(inputs[0], cotangents[0])]

    def pushforward(self, inputs, outputs, tangents):
        if isinstance(tangents[0].type, DisconnectedType):
            return [disconnected_type()]
        return [self.directional_derivative(inputs[0], tangents[0])]


class CrossMapNormGrad(Normalisation):
    """The gradient of `CrossMapNorm`, given ``maps``, that of its output; `reference.cross_map_norm_grad` defines it.

    With N the sum over neighbours and D the denominators, the derivative of ``images * D ** -power`` along a tangent t
    is ``t * D ** -power - 2 * scale * power * images * D ** (-power - 1) * N(images * t)``; this is its adjoint.
    """

    gufunc_signature = "(b,c,h,w),(b,c,h,w)->(b,c,h,w)"
    tensor_count = 2

    def make_node(self, images, maps):
        images, maps = as_common_floats(input=(images, 4), output_grad=(maps, 4))
        check_no_problem(normalised_problem(images.type.shape, maps.type.shape))
        return Apply(self, [images, maps], [images.type()])

    def output_shapes(self, shapes, *integers):
        return [tuple(shapes[0])]

    def pullback(self, inputs, outputs, cotangents):
        images, maps = inputs
        [direction] = cotangents
        return [self._curvature(images, maps, direction), self.directional_derivative(images, direction)]

    def pushforward(self, inputs, outputs, tangents):
        images, maps = inputs
        terms = []
        if not isinstance(tangents[0].type, DisconnectedType):
            terms.append(self._curvature(images, maps, tangents[0]))
        if not isinstance(tangents[1].type, DisconnectedType):
            terms.append(self(images, tangents[1]))
        if not terms:
            return [disconnected_type()]
        return [terms[0] if len(terms) == 1 else terms[0] + terms[1]]

    def _curvature(self, images: Variable, maps: Variable, direction: Variable) -> Variable:
        """How the gradient for ``images`` changes as these move along ``direction``.

        The second derivative of ``sum(maps * images * D ** -power)``, applied to ``direction``. It is symmetric, which
        makes it the pullback and the pushforward at once.
        """
        d, p = self.denominators(images), self._number(self.power, images)
        mixed, adjoint = self.neighbours(images * direction), self.neighbours.adjoint()
        once, twice = d ** (-p - 1), d ** (-p - 2)
        terms = images * adjoint(maps * direction * once)
        terms += maps * once * mixed
        terms += direction * adjoint(maps * images * once)
        terms -= (
            self._number(2 * self.scale * (self.power + 1), images) * images * adjoint(maps * images * twice * mixed)
        )
        return -self._number(2 * self.scale * self.power, images) * terms


def finite(value: Any, name: str) -> float:
    """``value`` as a float; raises a ValueError that names it if it is none, or infinite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number
