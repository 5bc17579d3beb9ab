"""``theano.gof.op``: operators that programs define themselves."""

import inspect
from typing import Any

from pytensor.graph.op import Op as _Op

from pytensor_convnet.compat.mirror import mirror


class _AnyOp(type(_Op)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Op) if cls is Op else super().__instancecheck__(instance)


class Op(_Op, metaclass=_AnyOp):
    """An operator after Theano's protocol: ``make_node``, ``perform``, ``grad`` or ``L_op``, ``R_op``, ``infer_shape``.

    PyTensor has renamed the gradient and handed the function's graph to ``infer_shape``; the rest is as it was.
    """

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
        """What ``L_op`` or ``grad`` gives, whichever the program has defined."""
        if type(self).L_op is not _Op.L_op:
            return self.L_op(inputs, outputs, cotangents)
        if type(self).grad is not _Op.grad:
            return self.grad(inputs, cotangents)
        return super().pullback(inputs, outputs, cotangents)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        infer_shape = cls.__dict__.get("infer_shape")
        if infer_shape is not None and len(inspect.signature(infer_shape).parameters) == 3:
            cls.infer_shape = lambda self, *graph_node_shapes: infer_shape(self, *graph_node_shapes[-2:])


__getattr__, __dir__ = mirror(__name__, "pytensor.graph.op", "pytensor.link.c.op")
