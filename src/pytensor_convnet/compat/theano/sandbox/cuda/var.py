"""``theano.sandbox.cuda.var``: variables of float32, by the names of those that were on a GPU."""

from typing import Any, ClassVar

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.compile.sharedvalue import shared
from pytensor_convnet.compat.theano.sandbox.cuda.type import CudaNdarrayType


class _OfFloat32(type):
    kind: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.kind) and isinstance(getattr(instance, "type", None), CudaNdarrayType)


class CudaNdarrayVariable(metaclass=_OfFloat32):
    """What float32 tensors are instances of: variables, shared variables and constants."""

    kind: ClassVar[type] = Variable


class CudaNdarraySharedVariable(metaclass=_OfFloat32):
    """What shared variables of float32 are instances of."""

    kind: ClassVar[type] = SharedVariable


class CudaNdarrayConstant(metaclass=_OfFloat32):
    """What constants of float32 are instances of."""

    kind: ClassVar[type] = Constant


def float32_shared_constructor(
    value: Any, name: str | None = None, borrow: bool = False, **kwargs: Any
) -> SharedVariable:
    """A shared variable of dtype float32."""
    return shared(np.asarray(value, np.float32), name=name, borrow=borrow, **kwargs)


__getattr__, __dir__ = mirror(__name__)
