"""The gradient of biased maps on which tanh was applied, and that of their biases, as one step.

    TanhGrad(tanhs, tanhs_grad) -> maps_grad, biases_grad

Its definition is that of what it joins: ``tanhs_grad * (1 - tanhs**2)``, and the sum of that over batch, rows and
columns. Users do not build this Op; a rewrite does.
"""

import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable

from pytensor_convnet.ops.base import ConvnetOp, as_common_floats


class TanhGrad(ConvnetOp):
    """The gradients for maps and biases, given ``tanhs``, the tanh of their sum, and the gradient for that.

    `reference.tanh_grad` is the definition.

    Raises
    ------
    ValueError
        In `make_node`, for tensors that are not floats of four axes, or whose static shapes differ.
    """

    __props__ = ()
    gufunc_signature = "(b,c,h,w),(b,c,h,w)->(b,c,h,w),(c)"
    tensor_count = 2

    def make_node(self, tanhs, tanhs_grad):
        tanhs, tanhs_grad = as_common_floats(tanhs=(tanhs, 4), tanhs_grad=(tanhs_grad, 4))
        lengths = zip(tanhs.type.shape, tanhs_grad.type.shape)
        if any(None not in pair and pair[0] != pair[1] for pair in lengths):
            raise ValueError(
                f"tanhs_grad of shape {tanhs_grad.type.shape} does not fit tanhs of shape {tanhs.type.shape}: "
                "there is a gradient for each number"
            )
        shapes = self.static_output_shapes(tanhs, tanhs_grad)
        return Apply(
            self, [tanhs, tanhs_grad], [pt.tensor(dtype=tanhs.type.dtype, shape=shape) for shape in shapes]
        )  # fmt: skip

    def output_shapes(self, shapes):
        tanhs, _ = shapes
        return [tuple(tanhs), (tanhs[1],)]

    def pullback(self, inputs, outputs, cotangents):
        tanhs, tanhs_grad = inputs
        total = _total(*cotangents)
        if total is None:
            return [disconnected_type(), disconnected_type()]
        return [total * tanhs_grad * (-2 * tanhs), total * (1 - tanhs**2)]

    def pushforward(self, inputs, outputs, tangents):
        tanhs, tanhs_grad = inputs
        of_tanhs, of_grad = tangents
        terms = [] if _is_disconnected(of_tanhs) else [tanhs_grad * (-2 * tanhs) * of_tanhs]
        terms += [] if _is_disconnected(of_grad) else [(1 - tanhs**2) * of_grad]
        if not terms:
            return [disconnected_type(), disconnected_type()]
        maps = sum(terms[1:], terms[0])
        return [maps, maps.sum(axis=(0, 2, 3))]


def _total(of_maps: Variable, of_biases: Variable) -> Variable | None:
    """What reaches the maps' gradient, by itself and by way of its sum; ``None`` if nothing does."""
    terms = [] if _is_disconnected(of_maps) else [of_maps]
    terms += [] if _is_disconnected(of_biases) else [of_biases[:, None, None]]
    return sum(terms[1:], terms[0]) if terms else None


def _is_disconnected(variable: Variable) -> bool:
    return isinstance(variable.type, DisconnectedType)
