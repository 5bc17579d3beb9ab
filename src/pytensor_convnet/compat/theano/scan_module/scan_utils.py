"""``theano.scan_module.scan_utils``."""

from typing import Any

from pytensor.graph.replace import clone_replace

from pytensor_convnet.compat.mirror import mirror


def clone(
    output: Any, replace: Any = None, strict: bool = True, share_inputs: bool = True, copy_inputs: bool | None = None
) -> Any:
    """A copy of the graph that computes ``output``, with parts of it replaced.

    Parameters
    ----------
    output : variable or list of variables
        What the graph computes.
    replace : dict or list of pairs of variables, optional
        What is replaced, and by what.
    strict : bool
        Whether a replacement must have the type of what it replaces.
    share_inputs : bool
        Whether the copy has the inputs of the original, instead of copies of them.
    copy_inputs : bool, optional
        The old name of ``share_inputs``.

    Returns
    -------
    variable or list of variables, as ``output`` is
    """
    shares = share_inputs if copy_inputs is None else copy_inputs
    return clone_replace(output, replace=replace, rebuild_strict=strict, copy_inputs_over=shares)


__getattr__, __dir__ = mirror(__name__, "pytensor.scan.utils")
