"""``theano.compile.io``: inputs of a function that have a default value."""

from typing import Any

from pytensor.compile import io as _io
from pytensor.compile.io import Out, SymbolicInput, SymbolicOutput
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.link.basic import Container

from pytensor_convnet.compat.mirror import mirror

__all__ = ["In", "Out", "Param", "SymbolicInput", "SymbolicOutput"]


class In(_io.In):
    """An input of a function, which may have a default value.

    Parameters
    ----------
    variable : variable
        The input.
    name : str, optional
        By which the input may be given; by default that of the variable.
    value : array or number, optional
        Taken when a call does not give the input.
    update, mutable, strict, allow_downcast, autoname, implicit, borrow, shared
        As for ``pytensor.In``.

    Raises
    ------
    ValueError
        If both ``value`` and ``update`` are given: an input that remembers is a shared variable now.
    """

    def __init__(
        self,
        variable: Variable,
        name: str | None = None,
        value: Any = None,
        update: Any = None,
        mutable: bool | None = None,
        strict: bool = False,
        allow_downcast: bool | None = None,
        autoname: bool = True,
        implicit: bool | None = None,
        borrow: bool | None = None,
        shared: bool = False,
    ):
        held_elsewhere = isinstance(value, Container | SharedVariable)
        if update is not None and value is not None and not held_elsewhere:
            raise ValueError(
                f"input {variable} has both a value and an update: make it theano.shared(value) and pass "
                "updates=[(shared variable, update)] to theano.function"
            )
        super().__init__(
            variable,
            name=name,
            value=value if held_elsewhere else None,
            update=update,
            mutable=mutable,
            strict=strict,
            allow_downcast=allow_downcast,
            autoname=autoname,
            implicit=implicit,
            borrow=borrow,
            shared=shared,
        )
        self.default = None if held_elsewhere else value


def Param(
    variable: Variable,
    default: Any = None,
    name: str | None = None,
    mutable: bool = False,
    strict: bool = False,
    allow_downcast: bool | None = None,
    implicit: bool | None = None,
    borrow: bool | None = None,
) -> In:
    """`In` by its oldest name, under which the value was called ``default``."""
    return In(
        variable,
        name=name,
        value=default,
        mutable=mutable,
        strict=strict,
        allow_downcast=allow_downcast,
        implicit=implicit,
        borrow=borrow,
    )


__getattr__, __dir__ = mirror(__name__, "pytensor.compile.io")
