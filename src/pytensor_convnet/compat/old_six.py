"""``six``, which Theano brought along and programs of its time import, where it is not installed.

Only what such programs took from it, for Python 3: types, iteration over dictionaries, and ``six.moves``.
"""

import builtins
import functools
import importlib
import importlib.util
import io
import itertools
import pickle
import sys
from types import ModuleType

NAMES = {
    "PY2": False,
    "PY3": True,
    "string_types": (str,),
    "integer_types": (int,),
    "class_types": (type,),
    "text_type": str,
    "binary_type": bytes,
    "StringIO": io.StringIO,
    "BytesIO": io.BytesIO,
    "iteritems": lambda mapping: iter(mapping.items()),
    "itervalues": lambda mapping: iter(mapping.values()),
    "iterkeys": lambda mapping: iter(mapping.keys()),
    "add_metaclass": lambda metaclass: lambda cls: metaclass(cls.__name__, cls.__bases__, dict(vars(cls))),
    "b": lambda text: text.encode("latin-1"),
    "u": lambda text: text,
}

MOVES = {
    "cPickle": pickle,
    "xrange": range,
    "range": range,
    "zip": zip,
    "map": map,
    "filter": filter,
    "input": input,
    "reduce": functools.reduce,
    "reload_module": importlib.reload,
    "zip_longest": itertools.zip_longest,
    "StringIO": io.StringIO,
    "cStringIO": io.StringIO,
    "builtins": builtins,
}
"""What ``six.moves`` has, apart from modules that are imported when they are asked for."""

MODULES = {
    "urllib": "urllib",
    "urllib.request": "urllib.request",
    "urllib.parse": "urllib.parse",
    "urllib.error": "urllib.error",
    "configparser": "configparser",
    "queue": "queue",
    "copyreg": "copyreg",
    "socketserver": "socketserver",
}
"""Submodules of ``six.moves``, and what Python 3 calls them."""


def provide_six() -> None:
    """Let ``import six`` find `NAMES`, `MOVES` and `MODULES`, unless it is installed."""
    if "six" in sys.modules or importlib.util.find_spec("six") is not None:
        return
    six, moves = ModuleType("six", __doc__), ModuleType("six.moves", __doc__)
    vars(six).update(NAMES, moves=moves)
    vars(moves).update(MOVES, __path__=[])
    six.__path__ = []
    sys.modules.update({"six": six, "six.moves": moves, "six.moves.cPickle": pickle})
    for name, module in MODULES.items():
        sys.modules[f"six.moves.{name}"] = importlib.import_module(module)
        if "." not in name:
            setattr(moves, name, sys.modules[f"six.moves.{name}"])
