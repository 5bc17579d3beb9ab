"""``theano.updates``: a dictionary of shared variables and what they become."""

from collections import OrderedDict
from typing import Any

from pytensor.compile.sharedvalue import SharedVariable


class OrderedUpdates(OrderedDict):
    """Updates in the order in which they were given; two may be added, if they do not disagree.

    Examples
    --------
    >>> import pytensor
    >>> count = pytensor.shared(0)
    >>> updates = OrderedUpdates([(count, count + 1)]) + {}
    >>> count in updates
    True
    """

    def __setitem__(self, variable: Any, expression: Any) -> None:
        if not isinstance(variable, SharedVariable):
            raise TypeError(f"the keys of updates must be shared variables, got {variable!r}")
        super().__setitem__(variable, expression)

    def __add__(self, other: Any) -> "OrderedUpdates":
        total = OrderedUpdates(self)
        for variable, expression in dict(other or {}).items():
            if variable in total and total[variable] is not expression:
                raise KeyError(f"two different updates of {variable}")
            total[variable] = expression
        return total

    __radd__ = __add__
