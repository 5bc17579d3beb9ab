"""The example in the style of Theano runs on a few images and leaves its pictures."""

import runpy
from pathlib import Path

import pytest

from pytensor_convnet.compat.configuration import config

EXAMPLE = Path(__file__).parents[2] / "examples" / "lenet_theano_style.py"


@pytest.fixture
def example():
    with config.change_flags(mode="FAST_COMPILE", floatX="float32"):
        yield runpy.run_path(str(EXAMPLE), run_name="example")


def test_it_learns_and_draws(example, tmp_path, capsys):
    history, test_error = example["main"](["--small", "--plots", str(tmp_path)])
    assert len(history) == 2
    assert 0 <= test_error <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"lenet-filters.png", "lenet-errors.png"}
    printed = capsys.readouterr().out
    assert "epoch 2: cost" in printed
    assert "test error then" in printed
