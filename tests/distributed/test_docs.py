"""The program of docs/distributed.md prints the same alone and in several processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.launching import launch

PAGE = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "line.py"
    path.write_text(PAGE.split("```python\n")[1].split("```")[0])
    return path


def test_alone(program):
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert result.stdout == "[1. 2. 3.] True\n"


def test_in_two_processes(program):
    result = launch(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[1. 2. 3.] True\n"
