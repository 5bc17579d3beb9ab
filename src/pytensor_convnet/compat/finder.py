"""Old module names as other names of our mirrors: ``theano.tensor`` is ``pytensor_convnet.compat.theano.tensor``."""

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from pytensor_convnet.compat.mirror import PACKAGE, explanation
from pytensor_convnet.compat.truth import let_variables_be_true, let_variables_have_no_truth

OLD_PACKAGES = ("theano", "pylearn2")


def _is_old(name: str) -> bool:
    return name.partition(".")[0] in OLD_PACKAGES


class _AliasLoader(Loader):
    """Gives the mirror itself, not a copy, so that a module has one state under both names."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(PACKAGE + spec.name)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has put that of the other name in its place


class OldNames(MetaPathFinder):
    """Finds ``theano`` and ``pylearn2`` and everything below them among the mirrors."""

    def find_spec(self, name, path=None, target=None):
        if not _is_old(name):
            return None
        mirrored = importlib.util.find_spec(PACKAGE + name)
        if mirrored is None:
            raise ModuleNotFoundError(explanation(name), name=f"{name} (not mirrored)")
        return ModuleSpec(name, _AliasLoader(), is_package=mirrored.submodule_search_locations is not None)


class MissingMirrors(MetaPathFinder):
    """Comes last, and so is asked for a mirror only if there is none: says what to use instead."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith(PACKAGE) and _is_old(name.removeprefix(PACKAGE)):
            # An error under the name asked for would be taken for "no such submodule" and swallowed.
            raise ModuleNotFoundError(explanation(name), name=f"{name} (not mirrored)")
        return None


_OLD_NAMES = OldNames()


def explain_missing_modules() -> None:
    """From now on, importing a mirror that does not exist says what to use instead."""
    if not any(isinstance(finder, MissingMirrors) for finder in sys.meta_path):
        sys.meta_path.append(MissingMirrors())


def install() -> None:
    """Make ``import theano`` and ``import pylearn2`` find the mirrors, in this process.

    Settings in the environment variable ``THEANO_FLAGS`` and in ``.theanorc`` are read when ``theano`` is first
    imported. ``if variable:`` asks whether there is a variable, as in Theano. Calling it twice does no harm.

    Raises
    ------
    RuntimeError
        If another ``theano`` or ``pylearn2`` has been imported already.

    Examples
    --------
    >>> import pytensor_convnet.compat
    >>> pytensor_convnet.compat.install()
    >>> import theano.tensor as T
    >>> T.nnet.relu(T.constant([-1.0, 2.0])).eval().tolist()
    [0.0, 2.0]
    >>> pytensor_convnet.compat.uninstall()
    """
    for name in OLD_PACKAGES:
        module = sys.modules.get(name)
        if module is not None and module is not sys.modules.get(PACKAGE + name):
            origin = getattr(module, "__file__", None) or "elsewhere"
            raise RuntimeError(f"{name} has already been imported from {origin}: call install() before that")
    if _OLD_NAMES not in sys.meta_path:
        sys.meta_path.insert(0, _OLD_NAMES)
    let_variables_be_true()


def uninstall() -> None:
    """Undo `install`: the old names are free again. Modules that were imported go on working."""
    if _OLD_NAMES in sys.meta_path:
        sys.meta_path.remove(_OLD_NAMES)
        let_variables_have_no_truth()
        for name in [name for name in sys.modules if _is_old(name)]:
            del sys.modules[name]
