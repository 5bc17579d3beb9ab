"""Names that Python's own library had in those years and has since removed, for scripts that we run unmodified."""

import collections
import collections.abc
import fractions
import importlib
import importlib.util
import inspect
import math
import sys
import time
from types import ModuleType
from typing import Any

ArgSpec = collections.namedtuple("ArgSpec", "args varargs keywords defaults")


def getargspec(function: Any) -> ArgSpec:
    """What ``inspect.getargspec`` gave: the arguments of a function, apart from those by keyword only."""
    full = inspect.getfullargspec(function)
    return ArgSpec(full.args, full.varargs, full.varkw, full.defaults)


def load_source(name: str, path: str) -> ModuleType:
    """What ``imp.load_source`` did: run the file at ``path`` as the module ``name``."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


OLD_NAMES: dict[ModuleType, dict[str, Any]] = {
    time: {"clock": time.perf_counter},
    fractions: {"gcd": math.gcd},
    inspect: {"getargspec": getargspec},
    collections: {
        name: getattr(collections.abc, name)
        for name in (
            "Callable",
            "Hashable",
            "Iterable",
            "Iterator",
            "Mapping",
            "MutableMapping",
            "Sequence",
            "Set",
            "Sized",
        )
    },
}


def restore_old_names() -> None:
    """Give modules back the names of `OLD_NAMES` where they no longer have them, and ``import imp`` what it had."""
    for module, names in OLD_NAMES.items():
        for name, value in names.items():
            if name not in vars(module):
                setattr(module, name, value)
    if "imp" not in sys.modules and importlib.util.find_spec("imp") is None:
        imp = ModuleType("imp", __doc__)
        vars(imp).update(load_source=load_source, reload=importlib.reload)
        sys.modules["imp"] = imp
