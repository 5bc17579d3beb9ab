"""``theano.printing``."""

from typing import Any

from pytensor.printing import Print, pp, pprint
from pytensor.printing import debugprint as _debugprint
from pytensor.printing import pydotprint as _pydotprint

from pytensor_convnet.compat.mirror import mirror

__all__ = ["Print", "debugprint", "pp", "pprint", "pydotprint"]


def debugprint(
    obj: Any,
    depth: int = -1,
    print_type: bool = False,
    file: Any = None,
    ids: str = "CHAR",
    stop_on_name: bool = False,
    done: Any = None,
    print_storage: bool = False,
    print_clients: bool = False,
    used_ids: Any = None,
    **settings: Any,
) -> Any:
    """Print a graph, one line an operator.

    Parameters
    ----------
    obj : variable, node, compiled function or list of them
    depth : int
        How far up the graph; -1 for all of it.
    print_type : bool
        Whether types are printed too.
    file : file or 'str', optional
        Where to; 'str' gives a string back.
    ids, stop_on_name, done, print_storage, used_ids, **settings
        As for ``pytensor.printing.debugprint``, which calls the first ``id_type``.
    print_clients : bool
        Has no effect.

    Returns
    -------
    file or str
    """
    return _debugprint(
        [_without_wrappers(one) for one in obj] if isinstance(obj, list | tuple) else _without_wrappers(obj),
        depth,
        print_type,
        file=file,
        id_type=ids,
        stop_on_name=stop_on_name,
        done=done,
        print_storage=print_storage,
        used_ids=used_ids,
        **settings,
    )


def pydotprint(fct: Any, *args: Any, **kwargs: Any) -> Any:
    """Draw a graph in a file; as ``pytensor.printing.pydotprint``."""
    return _pydotprint(_without_wrappers(fct), *args, **kwargs)


def _without_wrappers(fct: Any) -> Any:
    """PyTensor's own function within one that fills in defaults or brings results to the host."""
    while hasattr(fct, "compiled"):
        fct = fct.compiled
    return fct


__getattr__, __dir__ = mirror(__name__, "pytensor.printing")
