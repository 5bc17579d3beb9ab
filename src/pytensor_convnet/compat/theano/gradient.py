"""``theano.gradient``."""

from typing import Any

import pytensor.tensor as pt
from pytensor import gradient as _gradient
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.type import TensorType

from pytensor_convnet.compat.mirror import mirror

consider_constant = _gradient.zero_grad
consider_constant_ = _gradient.zero_grad


def Rop(
    f: Any, wrt: Any, eval_points: Any, disconnected_outputs: str = "raise", return_disconnected: str = "zero"
) -> Any:
    """The Jacobian of ``f`` times ``eval_points`` (PyTensor: ``pushforward``).

    Parameters
    ----------
    f, wrt, eval_points : variable or list of variables
        What is differentiated, by what, and the direction: ``eval_points`` has the shapes of ``wrt``.
    disconnected_outputs : {'raise', 'warn', 'ignore'}
        What happens if an ``f`` does not depend on ``wrt``.
    return_disconnected : {'zero', 'none', 'disconnected'}
        What is returned for it then.

    Returns
    -------
    variable, or list or tuple of variables, as ``f`` is
        With the shapes of ``f``.
    """
    results = _gradient.pushforward(f, wrt, eval_points, disconnected_outputs, return_disconnected)
    return _as(f, [_of_inputs(result, wrt) for result in (results if isinstance(results, list | tuple) else [results])])


def _of_inputs(result: Any, wrt: Any) -> Any:
    """``result`` as an expression of all ``wrt``, as Theano's always was, so that functions of them take each as used.

    Of a linear function the derivative does not depend on where it is taken. What is added are zeros of a shape, which
    rewrites remove.
    """
    if not isinstance(result, Variable) or not isinstance(result.type, TensorType):
        return result
    known = set(ancestors([result]))
    for variable in wrt if isinstance(wrt, list | tuple) else [wrt]:
        if variable not in known and isinstance(variable.type, TensorType):
            result = result + pt.zeros_like(variable, dtype=result.dtype).sum(dtype=result.dtype)
    return result


def Lop(f: Any, wrt: Any, eval_points: Any, consider_constant: Any = None, disconnected_inputs: str = "raise") -> Any:
    """``eval_points`` times the Jacobian of ``f`` (PyTensor: ``pullback``).

    Parameters
    ----------
    f, wrt, eval_points : variable or list of variables
        What is differentiated, by what, and the weights: ``eval_points`` has the shapes of ``f``.
    consider_constant : list of variables, optional
        What is taken for constant.
    disconnected_inputs : {'raise', 'warn', 'ignore'}
        What happens if ``f`` does not depend on one of ``wrt``.

    Returns
    -------
    variable, or list or tuple of variables, as ``wrt`` is
        With the shapes of ``wrt``.
    """
    return _as(wrt, _gradient.pullback(f, wrt, eval_points, consider_constant, disconnected_inputs))


def _as(model: Any, results: Any) -> Any:
    """``results`` as a list, a tuple or one variable, as ``model`` is."""
    if isinstance(model, list | tuple):
        return type(model)(results)
    return results[0] if isinstance(results, list | tuple) else results


__getattr__, __dir__ = mirror(__name__, "pytensor.gradient")
