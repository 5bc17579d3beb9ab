"""``theano.sandbox.cuda.type``: tensors of float32, which all that was on a GPU were."""

from collections.abc import Sequence
from typing import Any

from pytensor.tensor.type import TensorType

from pytensor_convnet.compat.mirror import mirror


class _Float32Type(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, TensorType) and instance.dtype == "float32"


class CudaNdarrayType(metaclass=_Float32Type):
    """The type of float32 tensors: what programs checked before they handed something to the GPU.

    Parameters
    ----------
    broadcastable : sequence of bool
        One entry an axis: whether its length is 1 for ever.
    name : str, optional

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> isinstance(pt.ftensor4().type, CudaNdarrayType), isinstance(pt.dvector().type, CudaNdarrayType)
    (True, False)
    """

    def __new__(cls, broadcastable: Sequence[bool], name: str | None = None) -> TensorType:
        return TensorType("float32", tuple(map(bool, broadcastable)), name=name)


__getattr__, __dir__ = mirror(__name__)
