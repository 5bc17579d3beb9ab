"""Which share of the work is whose, and what torchrun's environment tells, without any other process."""

import numpy as np
import pytest

from pytensor_convnet.processes import ALONE, Processes, joined, launched


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("images", [0, 1, 11, 12, 23, 24, 31])
def test_shares_make_up_each_minibatch_in_its_order(count, images):
    batch_size = 12
    order = np.random.default_rng(0).permutation(images)
    processes = [Processes(rank, count) for rank in range(count)]
    share = batch_size // count
    shares = [each.share(order, batch_size) for each in processes]
    for batch in range(-(-images // batch_size)):
        cuts = [mine[batch * share : (batch + 1) * share] for mine in shares]
        np.testing.assert_array_equal(np.concatenate(cuts), order[batch * batch_size : (batch + 1) * batch_size])
        assert np.ptp([len(cut) for cut in cuts]) <= 1


def test_alone_everything_is_ones_own():
    order = np.arange(7)
    np.testing.assert_array_equal(ALONE.share(order, 3), order)
    np.testing.assert_array_equal(ALONE.part(order), order)
    np.testing.assert_array_equal(ALONE.total([1, 2]), [1, 2])
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.is_first


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
        ({"device": "tpu"}, "device must be 'cpu' or 'cuda', got 'tpu'"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({}, "PYTENSOR_CONVNET_TIMEOUT must be a positive number of seconds, got 'soon'"),
    ],
)
def test_bad_settings_are_named(arguments, message, monkeypatch):
    monkeypatch.setenv("PYTENSOR_CONVNET_TIMEOUT", "soon")
    with pytest.raises(ValueError, match=message), joined(**arguments):
        pass


def test_without_torch_it_says_what_is_missing(monkeypatch):
    import sys

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    with pytest.raises(ImportError, match=r"2 processes .* pip install 'pytensor-convnet\[torch\]'"), joined():
        pass
