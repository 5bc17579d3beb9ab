"""``theano.compile.builders``: operators made of a graph."""

from collections.abc import Callable, Sequence
from typing import Any

from pytensor.compile.builders import OpFromGraph as _OpFromGraph
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror


def _as_pullback(gradient: Any) -> Any:
    """A gradient of (inputs, output gradients), or a list with one for each input, as a pullback."""
    if isinstance(gradient, list):
        return [_as_pullback(one) for one in gradient]
    if not callable(gradient):
        return gradient
    return lambda inputs, outputs, output_gradients: gradient(inputs, output_gradients)


class OpFromGraph(_OpFromGraph):
    """An operator that computes ``outputs`` from ``inputs``.

    Parameters
    ----------
    inputs, outputs : list of variables
    inline : bool
        Whether compiling puts the graph in the operator's place.
    lop_overrides, rop_overrides : callable, list or OpFromGraph, optional
        What takes the place of its pullback and pushforward.
    grad_overrides : callable or list, optional
        The gradient, of (inputs, output gradients); or one for each input. 'default' leaves it as it is.
    **settings
        As for ``pytensor.compile.builders.OpFromGraph``.

    Notes
    -----
    Programs also set ``op.grad`` to a function of (inputs, output gradients), which then is the gradient.
    """

    def __init__(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        inline: bool = False,
        lop_overrides: Any = None,
        grad_overrides: Any = None,
        rop_overrides: Any = None,
        **settings: Any,
    ):
        for name, override in (
            ("pullback", lop_overrides),
            ("pullback", _as_pullback(grad_overrides)),
            ("pushforward", rop_overrides),
        ):
            if override is not None and not isinstance(override, str):
                settings[name] = override
        super().__init__(list(inputs), list(outputs), inline=inline, **settings)

    def pullback(self, inputs: Any, outputs: Any, output_grads: Any) -> Any:
        """What ``op.grad`` gives, if the program has set it."""
        gradient: Callable[..., Any] | None = vars(self).get("grad")
        if gradient is not None:
            return list(gradient(inputs, output_grads))
        return super().pullback(inputs, outputs, output_grads)


__getattr__, __dir__ = mirror(__name__, "pytensor.compile.builders")
