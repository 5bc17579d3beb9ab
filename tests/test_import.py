"""Importing the package is quick, compiles nothing and pulls in no optional dependency."""

import subprocess
import sys

import pytest

OPTIONAL = ("numba", "torch", "triton", "jax", "matplotlib", "rich", "typer", "sklearn", "scipy.signal", "PIL")


def in_a_fresh_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_adds_no_optional_dependency():
    code = "import pytensor, sys; before = set(sys.modules); import pytensor_convnet; print(*set(sys.modules) - before)"
    added = in_a_fresh_process(code).split()
    assert "pytensor_convnet" in added
    assert not [name for name in added if name.split(".")[0] in OPTIONAL or name in OPTIONAL]


def test_importing_registers_with_a_backend_that_is_already_loaded():
    code = """
import pytensor.link.numba.dispatch, sys
import pytensor_convnet
print("pytensor_convnet.lowering.numba" in sys.modules)
"""
    assert in_a_fresh_process(code).split() == ["True"]


def test_a_backend_loaded_later_is_registered_with():
    code = """
import pytensor_convnet, sys
print("pytensor_convnet.lowering.numba" in sys.modules)
import pytensor.link.numba.dispatch
print("pytensor_convnet.lowering.numba" in sys.modules, "pytensor_convnet.kernels.cpu" in sys.modules)
"""
    assert in_a_fresh_process(code).split() == ["False", "True", "False"]


FORBIDDEN = [
    ("geometry", "pytensor"),
    ("reference", "pytensor"),
    ("kernels", "pytensor"),
    ("ops", "pytensor_convnet.kernels"),
    ("ops", "pytensor_convnet.lowering"),
    ("ops", "pytensor_convnet.rewriting"),
    ("rewriting", "pytensor_convnet.kernels"),
    ("rewriting", "pytensor_convnet.lowering"),
    ("datasets", "pytensor"),
]


@pytest.mark.parametrize(("part", "forbidden"), FORBIDDEN)
def test_imports_run_one_way(part, forbidden):
    import ast
    from pathlib import Path

    import pytensor_convnet

    root = Path(pytensor_convnet.__file__).parent
    files = [root / f"{part}.py"] if (root / f"{part}.py").exists() else sorted((root / part).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                assert not f"{name}.".startswith(f"{forbidden}."), f"{file} imports {name}"
