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

    PyTensor still follows all of it but the last, whose first argument it has made the function's graph.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        infer_shape = cls.__dict__.get("infer_shape")
        if infer_shape is not None and len(inspect.signature(infer_shape).parameters) == 3:
            cls.infer_shape = lambda self, fgraph, node, shapes: infer_shape(self, node, shapes)


__getattr__, __dir__ = mirror(__name__, "pytensor.graph.op", "pytensor.link.c.op")
