"""What torchrun's environment tells, and what is wrong with it, without any other process."""

import sys

import pytest

from pytensor_convnet.joining import joined, launched
from pytensor_convnet.processes import ALONE, Processes


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}])
def test_without_others_one_is_alone(environment, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with joined() as processes:
        assert processes == ALONE


def test_torchrun_tells_which_process_one_is(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == Processes(2, 4)


@pytest.mark.parametrize(("rank", "count"), [("4", "4"), ("-1", "4"), ("first", "4"), ("0", "many")])
def test_numbers_that_do_not_go_together_are_refused(rank, count, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(ValueError, match=f"RANK={rank} and WORLD_SIZE={count}"):
        launched()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device must be 'cpu', 'cuda' or one GPU such as 'cuda:1', got 'tpu'"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({}, "PYTENSOR_CONVNET_TIMEOUT must be a positive number of seconds, got 'soon'"),
    ],
)
def test_bad_settings_are_named(arguments, message, monkeypatch):
    monkeypatch.setenv("PYTENSOR_CONVNET_TIMEOUT", "soon")
    with pytest.raises(ValueError, match=message), joined(**arguments):
        pass


def test_without_torch_it_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    with pytest.raises(ImportError, match=r"2 processes .* pip install 'pytensor-convnet\[torch\]'"), joined():
        pass
