"""``theano.compile.sharedvalue``: values that functions share."""

from collections.abc import Sequence
from typing import Any

import pytensor
from pytensor.compile.sharedvalue import SharedVariable

from pytensor_convnet.compat.mirror import mirror

__all__ = ["SharedVariable", "shared"]


def shared(
    value: Any,
    name: str | None = None,
    strict: bool = False,
    allow_downcast: bool | None = None,
    broadcastable: Sequence[bool] | None = None,
    borrow: bool = False,
    target: Any = None,
    **kwargs: Any,
) -> SharedVariable:
    """A variable whose value functions share and update.

    Parameters
    ----------
    value : array or number
        The initial value; its dtype and number of axes stay.
    name : str, optional
    strict, allow_downcast
        Which values may be set later, as for ``pytensor.shared``.
    broadcastable : sequence of bool, optional
        Which axes have length 1 for ever (PyTensor: ``shape`` with ones).
    borrow : bool
        Whether ``value`` may be used without copying it.
    target : optional
        Theano's device for it; has no effect.

    Returns
    -------
    shared variable
    """
    if broadcastable is not None:
        kwargs["shape"] = tuple(1 if one else None for one in broadcastable)
    if borrow:
        kwargs["borrow"] = borrow
    return pytensor.shared(value, name=name, strict=strict, allow_downcast=allow_downcast, **kwargs)


__getattr__, __dir__ = mirror(__name__, "pytensor.compile.sharedvalue")
