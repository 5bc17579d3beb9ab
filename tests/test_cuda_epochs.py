"""Whole trainings, timed by `benchmarks/cuda_epochs.py`: on a CPU, where only the GPU's part is missing."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from pytensor_convnet.history import EpochReport, Score

torch = pytest.importorskip("torch", reason="torch's profiler is read: pip install torch")

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "cuda_epochs.py"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cuda_epochs.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_each_size_of_minibatch_is_timed(monkeypatch, tmp_path, capsys):
    settings = "--images", 10, "--epochs", 2, "--mode", "FAST_COMPILE", "--json", tmp_path / "file.json"
    run(monkeypatch, "--batch-sizes", 4, 5, *settings)
    printed = capsys.readouterr().out
    assert printed.count("epoch 2/2") == 2
    first, second = json.loads((tmp_path / "file.json").read_text())
    for result, batch_size in ((first, 4), (second, 5)):
        assert result["use"] is None
        assert (result["batch_size"], result["images"], result["epochs"]) == (batch_size, 10, 2)
        assert 0 < result["seconds_learning"] <= result["seconds"]
        assert f"batch {batch_size}, FAST_COMPILE: 2 epochs of 10 images in {result['seconds']:.2f} s" in printed


def test_the_third_epoch_is_recorded(monkeypatch):
    script = runpy.run_path(str(SCRIPT))
    traces = []
    read = script["trace_of"]
    monkeypatch.setitem(
        script["Recorder"].on_epoch.__globals__, "trace_of", lambda p: traces.append(read(p)) or traces[0]
    )
    monkeypatch.setattr(torch.profiler.ProfilerActivity, "CUDA", torch.profiler.ProfilerActivity.CPU, raising=False)
    recorder = script["Recorder"]()
    recorder.on_compiled(1.0)
    for epoch, steps in ((1, 2), (2, 3), (3, 4)):
        assert recorder.use is None
        for _ in range(steps):
            torch.ones(3).sum()
        recorder.on_epoch(EpochReport(epoch, 0.5, Score(0.5, 0.5), 1.0, 100.0))
    [trace] = traces
    assert sum(event.get("name") == "aten::ones" for event in trace) == 4
    assert recorder.use == script["DeviceUse"](0.0, {})  # the CPU alone did something


def test_a_trace_is_read_back():
    script = runpy.run_path(str(SCRIPT))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(3).sum()
    names = [event.get("name") for event in script["trace_of"](profiler)]
    assert "aten::sum" in names


def test_what_a_gpu_did():
    script = runpy.run_path(str(SCRIPT))
    copy = {"cat": "gpu_memcpy", "dur": 1}
    events = [
        {"cat": "kernel", "name": "conv", "ts": 10, "dur": 4},
        {"cat": "kernel", "name": "beside it", "ts": 12, "dur": 4},
        copy | {"name": "Memcpy HtoD (Pinned -> Device)", "ts": 0, "args": {"bytes": 8}},
        copy | {"name": "Memcpy DtoH (Device -> Pageable)", "ts": 19, "args": {"bytes": 4}},
        copy | {"name": "Memcpy DtoD (Device -> Device)", "ts": 1, "args": {"bytes": 99}},
        {"cat": "cuda_runtime", "name": "cudaGraphLaunch", "ts": -9, "dur": 99},
    ]
    use = script["DeviceUse"].of(events)
    assert use.busy == 9 / 20
    assert use.copies == {"8 bytes to the GPU": 1, "4 bytes to the host": 1}
    assert script["DeviceUse"].of([]).busy == 0
