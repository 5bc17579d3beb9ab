"""What the mirrors of old modules share: where a name comes from, and what is said when it is nowhere."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

PACKAGE = "pytensor_convnet.compat."

_NO_CTC = "connectionist temporal classification has no counterpart here or in PyTensor"
_NO_BLOCKS = "block-sparse products have no counterpart: use dense products or pytensor.sparse"
_ONE_ARRAY = "there is one kind of array here: use the types and variables of theano.tensor"
_NO_PYCUDA = "kernels written with PyCUDA have no counterpart: use the operators of pytensor_convnet"

WITHOUT_MIRROR = {
    "theano.gpuarray.ctc": _NO_CTC,
    "theano.tensor.nnet.ctc": _NO_CTC,
    "theano.tensor.nnet.blocksparse": _NO_BLOCKS,
    "theano.sandbox.blocksparse": _NO_BLOCKS,
    "theano.tensor.inplace": "PyTensor makes Ops work in place by itself: use the functions of theano.tensor",
    "theano.compile.profilemode": "use theano.function(..., profile=True)",
    "theano.gpuarray.type": _ONE_ARRAY,
    "theano.misc.pycuda_init": _NO_PYCUDA,
    "theano.misc.pycuda_utils": _NO_PYCUDA,
    "theano.tests": "Theano's test suite is not mirrored: use pytensor.gradient.verify_grad and numpy.testing",
    "pylearn2": "only pylearn2.sandbox.cuda_convnet is mirrored",
}
"""Old modules that have no mirror, and what to use instead."""


def mirror(
    module: str, *sources: str, missing: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a mirror: names that it does not define come from other modules.

    Parameters
    ----------
    module : str
        The mirror's ``__name__``.
    *sources : str
        Modules to search, in this order. One that this version of PyTensor does not have is left out.
    missing : mapping of str to str, optional
        Known names that are nowhere, and what to use instead.

    Returns
    -------
    (callable, callable)
        Where no source has a name, the first raises an AttributeError that names it and says what to use.

    Examples
    --------
    >>> get, names = mirror(__name__, "pytensor.gradient", missing={"old": "use new"})
    >>> get("grad_clip").__name__
    'grad_clip'
    >>> get("old")
    Traceback (most recent call last):
        ...
    AttributeError: mirror.old is not mirrored: use new
    """
    sys.modules[module].__class__ = _Mirror
    # A package is asked for a submodule of the name before `from module import name` fails, and so the finder can say
    # what is missing. Without a path, a plain module would only be said not to have the name.
    if not hasattr(sys.modules[module], "__path__"):
        sys.modules[module].__path__ = []

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        if PathFinder.find_spec(f"{module}.{name}", sys.modules[module].__path__) is not None:
            return importlib.import_module(f"{module}.{name}")  # Theano imported its submodules with itself
        for source in _present(sources):
            if hasattr(source, name):
                return getattr(source, name)
        raise AttributeError(explanation(f"{module}.{name}", missing))

    def names() -> list[str]:
        own = vars(sys.modules[module])
        return sorted({name for part in (own, *map(dir, _present(sources))) for name in part if name[:1] != "_"})

    _MISSING[module] = missing or {}
    return find, names


class _Mirror(ModuleType):
    """A module in which a function keeps its name although a submodule has the same: ``theano.tensor.var`` is both."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a submodule, under either of its names, binds it in its package.
        if isinstance(value, ModuleType) and not isinstance(vars(self).get(name, value), ModuleType):
            return
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # An operator that a script defines is pickled with the modules that it uses, when Numba calls it back.
        return importlib.import_module, (self.__name__,)


_MISSING: dict[str, Mapping[str, str]] = {}
"""What each mirror knows to be nowhere."""


def _present(sources: tuple[str, ...]) -> Iterator[ModuleType]:
    for source in sources:
        try:
            yield importlib.import_module(source)
        except ModuleNotFoundError:
            continue


def explanation(name: str, missing: Mapping[str, str] | None = None) -> str:
    """One sentence on an old name that is not mirrored: which, and what to use.

    Examples
    --------
    >>> explanation("pytensor_convnet.compat.theano.tensor.nnet.ctc.ctc")
    'theano.tensor.nnet.ctc.ctc is not mirrored: connectionist temporal classification has no counterpart ...'
    """
    name = old_name(name)
    module, _, last = name.rpartition(".")
    known = _MISSING.get(PACKAGE + module, {}) if missing is None else missing
    advice = known.get(last)
    place = name
    while advice is None and place:
        advice = WITHOUT_MIRROR.get(place)
        place = place.rpartition(".")[0]
    if advice is None:
        advice = (
            f"neither pytensor_convnet.compat nor PyTensor has {last!r} there; docs/migrating.md lists the names that "
            "are, and every name of pytensor.tensor also works as theano.tensor's"
        )
    return f"{name} is not mirrored: {advice}"


def old_name(name: str) -> str:
    """The name that an old program uses for a module or an object of ours.

    Examples
    --------
    >>> old_name("pytensor_convnet.compat.theano.tensor")
    'theano.tensor'
    """
    return name.removeprefix("pytensor_convnet.").removeprefix("compat.")


def warn_of_old_argument(function: str, old: str, new: str) -> None:
    """Theano's warning about an argument that was renamed."""
    warnings.warn(f"DEPRECATION: the {old!r} argument of {function} has been renamed: use {new!r}.", stacklevel=3)


_NOTED: set[str] = set()


def note_once(subject: str, sentence: str) -> None:
    """Warn of something that holds for the whole program, the first time only."""
    if subject not in _NOTED:
        _NOTED.add(subject)
        warnings.warn(sentence, stacklevel=4)
