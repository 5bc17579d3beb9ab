"""``theano.scan_module``: loops. ``theano.scan`` and its relatives."""

import warnings
from typing import Any

import pytensor
from pytensor.graph.basic import Variable
from pytensor.scan import views as _views
from pytensor.scan.utils import until

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.scan_module.scan_utils import clone

__all__ = ["clone", "foldl", "foldr", "map", "reduce", "scan", "until"]


def _in_theanos_way(loop: Any) -> Any:
    """``loop``, which always returns updates too; PyTensor warns its own users that it will not for ever."""

    def looped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return loop(*args, **kwargs)

    looped.__name__ = loop.__name__
    looped.__doc__ = loop.__doc__
    return looped


map = _in_theanos_way(_views.map)
reduce = _in_theanos_way(_views.reduce)
foldl = _in_theanos_way(_views.foldl)
foldr = _in_theanos_way(_views.foldr)
_scan = _in_theanos_way(pytensor.scan)


def scan(
    fn: Any,
    sequences: Any = None,
    outputs_info: Any = None,
    non_sequences: Any = None,
    n_steps: Any = None,
    truncate_gradient: int = -1,
    go_backwards: bool = False,
    mode: Any = None,
    name: str | None = None,
    profile: bool = False,
    allow_gc: bool | None = None,
    strict: bool = False,
    return_list: bool = False,
) -> tuple[Variable | list[Variable], Any]:
    """Apply ``fn`` in a loop; ``pytensor.scan`` with Theano's arguments and results.

    Parameters
    ----------
    fn : callable
        Builds one step from slices of the sequences, earlier outputs, and ``non_sequences``.
    sequences, outputs_info, non_sequences, n_steps, truncate_gradient, go_backwards, mode, name, profile, allow_gc, \
strict, return_list
        As for ``pytensor.scan``.

    Returns
    -------
    (outputs, updates)
        The stacked outputs, one variable if there is only one; and what the function that computes them must update.
    """
    return _scan(
        fn,
        sequences=sequences,
        outputs_info=outputs_info,
        non_sequences=non_sequences,
        n_steps=n_steps,
        truncate_gradient=truncate_gradient,
        go_backwards=go_backwards,
        mode=mode,
        name=name,
        profile=profile,
        allow_gc=allow_gc,
        strict=strict,
        return_list=return_list,
    )


__getattr__, __dir__ = mirror(__name__, "pytensor.scan")
