"""``if variable:`` asks whether there is a variable, as in Theano."""

import pytensor.scalar as ps
from pytensor.tensor.variable import _tensor_py_operators

_PYTENSORS = _tensor_py_operators.__bool__


def _truth(variable) -> bool:
    owner = variable.owner
    if owner is not None and isinstance(getattr(owner.op, "scalar_op", None), ps.LT | ps.LE | ps.GT | ps.GE):
        raise TypeError(
            "a symbolic comparison has no truth value before the function runs: use T.switch, T.and_, T.or_"
        )
    return True


def let_variables_be_true() -> None:
    """Let ``if variable:`` ask whether there is one.

    Programs write ``if not W: W = theano.shared(...)`` for an argument that may be None; PyTensor refuses that for any
    variable. Comparisons are still refused. This holds for all variables in the process, so it is left to `install`,
    which says that the process runs an old program: importing a mirror changes nothing.
    """
    _tensor_py_operators.__bool__ = _truth


def let_variables_have_no_truth() -> None:
    """Undo `let_variables_be_true`."""
    _tensor_py_operators.__bool__ = _PYTENSORS
