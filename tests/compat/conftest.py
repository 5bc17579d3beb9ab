"""Old programs are scripts, run by `run_program`; they are no tests themselves."""

import runpy
import sys
from pathlib import Path

import pytest

from pytensor_convnet import compat

PROGRAMS = Path(__file__).parent / "programs"

collect_ignore_glob = ["programs/*"]


@pytest.fixture
def old_imports():
    """Within a test, ``import theano`` and ``import pylearn2`` find the mirrors; settings are put back after it."""
    compat.install()
    from pytensor_convnet.compat.configuration import config

    before = {name: getattr(config, name) for name in ("floatX", "mode", "device", "compute_test_value")}
    yield config
    for name, value in before.items():
        setattr(config, name, value)
    compat.uninstall()


@pytest.fixture
def run_program(old_imports, monkeypatch):
    """Run a program of the folder, unmodified, as ``__main__``; gives its globals.

    Functions compile for PyTensor's Python linker: the values are the same, and nothing waits for a compiler.
    """
    monkeypatch.syspath_prepend(str(PROGRAMS))
    already = set(sys.modules)

    def run(name, *arguments, floatX="float32", mode="FAST_COMPILE"):
        old_imports.floatX, old_imports.mode = floatX, mode
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        return runpy.run_path(str(PROGRAMS / f"{name}.py"), run_name="__main__")

    yield run
    for name in set(sys.modules) - already:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(PROGRAMS)):
            del sys.modules[name]
