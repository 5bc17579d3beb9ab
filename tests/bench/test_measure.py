"""Taking turns, medians and memory."""

import numpy as np
import pytest

from pytensor_convnet.bench import ceilings, measure


def pretend(monkeypatch, seconds):
    """Let every call take so many seconds, whatever the machine does."""

    def seconds_of(call):
        call()
        return seconds

    monkeypatch.setattr(measure, "seconds_of", seconds_of)


def test_implementations_take_turns_after_warming_up(monkeypatch):
    pretend(monkeypatch, 0.006)
    log = []
    medians = measure.interleaved_medians({name: lambda name=name: log.append(name) for name in "ab"}, seconds=0)
    assert log[:4] == ["a", "a", "b", "b"]
    # A turn: two calls fill the 10 ms of warming up, and two more are counted.
    assert log[4:] == [*"aaaabbbb"] * measure.LEAST_TURNS
    assert medians == {"a": 0.006, "b": 0.006}


def test_the_median_forgives_a_slow_moment(monkeypatch):
    times = iter([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0, 0.1, 0.1, 0.1, 0.1])
    monkeypatch.setattr(measure, "seconds_of", lambda call: next(times))
    assert measure.interleaved_medians({"a": lambda: None}, seconds=0) == {"a": 0.1}


@pytest.mark.parametrize(("seconds", "turns"), [(0, measure.LEAST_TURNS), (0.4, 10), (1000, measure.MOST_TURNS)])
def test_more_seconds_are_more_turns(monkeypatch, seconds, turns):
    pretend(monkeypatch, 0.02)
    calls = []
    measure.interleaved_medians({"a": lambda: calls.append(1)}, seconds)
    assert len(calls) == 2 + 2 * turns


def test_extra_memory_is_what_neither_was_there_nor_is_returned():
    operand = np.ones(1_000_000)

    def call():
        scratch = np.ones(5_000_000)
        return operand + scratch[:1_000_000]

    extra = measure.extra_bytes(call)
    if extra is None:
        pytest.skip("the system does not tell")
    assert 38e6 < extra < 46e6


def test_memory_freed_before_is_not_lost_sight_of():
    def call():
        return sum(np.ones(10_000).sum() for _ in range(10)) + sum(len(piece) for piece in [bytes(50_000)] * 10)

    def many_small():
        return len([bytes(50_000) for _ in range(200)])  # below what the allocator asks of the system each time

    extra = measure.extra_bytes(many_small)
    if extra is None:
        pytest.skip("the system does not tell")
    assert 8e6 < extra < 16e6
    assert measure.extra_bytes(call) < 4e6


def test_ceilings_are_plausible(monkeypatch):
    monkeypatch.setattr(ceilings, "SECONDS", 0)
    # A machine that does something else meanwhile may be slow, but never faster than it is.
    single, double = (max(ceilings.multiply_add_rate(dtype) for _ in range(5)) for dtype in ("float32", "float64"))
    assert 1e9 < double < 1.5 * single < 1e14
    assert 1e8 < ceilings.copy_rate(2**22) < 1e13
