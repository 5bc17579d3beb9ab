"""``theano.compile.monitormode``: functions that see each operator run."""

import inspect
from collections.abc import Callable
from typing import Any

from pytensor.compile.debug import monitormode as _monitormode

from pytensor_convnet.compat.mirror import mirror


def _of_graph_too(watch: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """``watch(i, node, fn)`` as PyTensor calls it, which passes the graph as well."""
    if watch is None or len(inspect.signature(watch).parameters) != 3:
        return watch
    return lambda fgraph, i, node, fn: watch(i, node, fn)


class MonitorMode(_monitormode.MonitorMode):
    """A mode that calls functions before and after each operator.

    Parameters
    ----------
    pre_func, post_func : callable, optional
        Called with the operator's number, its node and what computes it, whose ``inputs`` and ``outputs`` hold values.
    optimizer, linker
        As for PyTensor's.
    """

    def __init__(
        self, pre_func: Any = None, post_func: Any = None, optimizer: Any = "default", linker: Any = None, **kwargs: Any
    ):
        super().__init__(_of_graph_too(pre_func), _of_graph_too(post_func), optimizer, linker, **kwargs)


def detect_nan(i: int, node: Any, fn: Any) -> None:
    """Print the first operator that gives a NaN: a ``post_func``."""
    _monitormode.detect_nan(None, i, node, fn)


__getattr__, __dir__ = mirror(__name__, "pytensor.compile.debug.monitormode")
