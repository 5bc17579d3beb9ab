"""``theano.tensor.var``: what a symbolic variable is to Python."""

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.tensor.variable import TensorVariable as _TensorVariable

from pytensor_convnet.compat.mirror import mirror


class _WithoutValue(type(_TensorVariable)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        if cls is not TensorVariable:
            return super().__instancecheck__(instance)
        return isinstance(instance, _TensorVariable) and not isinstance(instance, SharedVariable | Constant)


class TensorVariable(_TensorVariable, metaclass=_WithoutValue):
    """PyTensor's class, of which shared variables and constants are no instances, as they were none in Theano's.

    Libraries tell parameters from expressions by that.
    """


__getattr__, __dir__ = mirror(__name__, "pytensor.tensor.variable")
