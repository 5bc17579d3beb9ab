"""Figures of a trace, and the recording of steps."""

import io
from importlib.util import find_spec

import pytest
from rich.console import Console

from pytensor_convnet.profiling import StepProfiler, profile_of
from pytensor_convnet.reports import profile_table


def event(cat, name, ts, dur, **args):
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 7, "args": args}


STEP = [
    event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 0, 2, bytes=8),
    event("kernel", "conv", 10, 40),
    event("kernel", "pool", 45, 15),  # overlaps
    event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 60, 10, bytes=4096),
    event("gpu_memset", "Memset (Device)", 80, 5, bytes=64),
    event("kernel", "conv", 90, 10),
    event("cpu_op", "aten::conv2d", 0, 500),
    event("cuda_runtime", "cudaGraphLaunch", 0, 700),
    {"ph": "M", "name": "process_name", "args": {"name": "python"}},
]


def later(events, by):
    return [event | {"ts": event["ts"] + by} if "ts" in event else event for event in events]


def test_the_gpu_is_busy_while_anything_runs_on_it():
    # 2, 60 from 10 to 70, 5 and 10 of 100, twice
    assert profile_of(STEP + later(STEP, 100), steps=2).busy == pytest.approx(0.77)


def test_copies_are_counted_by_direction_and_step():
    download = event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 150, 1, bytes=20)
    profile = profile_of([*STEP, *later(STEP, 100), download], steps=2)
    assert (profile.bytes_to_device, profile.bytes_to_host) == (8, 10)


def test_kernels_are_summed_by_name_and_the_longest_come_first():
    conv, pool = profile_of(STEP + later(STEP, 100), steps=2).kernels
    assert (conv.name, conv.microseconds, conv.calls, conv.share) == ("conv", 50, 2, pytest.approx(50 / 65))
    assert (pool.name, pool.microseconds, pool.calls) == ("pool", 15, 1)


def test_without_a_gpu_outermost_operators_are_counted():
    inner = event("cpu_op", "aten::mm", 10, 50)
    profile = profile_of([event("cpu_op", "aten::linear", 0, 100), inner, event("cpu_op", "aten::relu", 100, 20)], 1)
    assert profile.busy is None
    assert [(each.name, each.microseconds) for each in profile.kernels] == [("aten::linear", 100), ("aten::relu", 20)]


def test_an_empty_trace_has_no_kernels():
    profile = profile_of([], steps=3)
    assert (profile.busy, profile.microseconds, profile.kernels) == (None, 0, [])


def test_the_table_tells_busy_time_copies_and_kernels():
    console = Console(width=120, file=io.StringIO())
    console.print(profile_table(profile_of(STEP, steps=1)))
    told = console.file.getvalue()
    for expected in ("1 steps of 100 us; GPU busy: 77.00%", "8 bytes to the GPU, 0 back", "conv", "50.0", "76.92%"):
        assert expected in told


def steps(count):
    """A generator, as minibatches come from one."""
    yield from range(count)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize(("count", "recorded"), [(50, 4), (8, 2)])
def test_steps_are_recorded_once_enough_have_gone_before(tmp_path, count, recorded):
    import torch

    profiler = StepProfiler(tmp_path / "trace.json", device=None, steps=4, warm_up=6)
    for number in profiler.watch(steps(count)):
        torch.full((3,), number).add(1)
    assert profiler.profile.steps == recorded
    assert {each.name: each.calls for each in profiler.profile.kernels}["aten::add"] == 1
    assert (tmp_path / "trace.json").stat().st_size > 100


def test_of_too_few_steps_nothing_is_recorded(tmp_path):
    profiler = StepProfiler(tmp_path / "trace.json", device=None)
    assert list(profiler.watch(steps(5))) == [0, 1, 2, 3, 4]
    assert (profiler.profile, profiler.seen) == (None, 5)
