"""``theano.tensor.var``: what a symbolic variable is to Python."""

import pytensor.scalar as ps
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.tensor.variable import TensorVariable as _TensorVariable
from pytensor.tensor.variable import _tensor_py_operators

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


def _truth(variable) -> bool:
    owner = variable.owner
    if owner is not None and isinstance(getattr(owner.op, "scalar_op", None), ps.LT | ps.LE | ps.GT | ps.GE):
        raise TypeError(
            "a symbolic comparison has no truth value before the function runs: use T.switch, T.and_, T.or_"
        )
    return True


def let_variables_be_true() -> None:
    """Let ``if variable:`` ask whether there is one, as in Theano.

    Programs write ``if not W: W = theano.shared(...)`` for an argument that may be None; PyTensor refuses that for any
    variable. Comparisons are still refused. This holds for all variables in the process.
    """
    _tensor_py_operators.__bool__ = _truth


__getattr__, __dir__ = mirror(__name__, "pytensor.tensor.variable")
