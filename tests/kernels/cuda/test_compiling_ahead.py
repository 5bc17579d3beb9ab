"""Kernels that are compiled without a GPU are those that tensors on a GPU ask for; and nothing depends on them."""

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from triton.runtime.jit import JITFunction  # noqa: E402

from pytensor_convnet.kernels.cuda import compiling_ahead, runtime_compiler  # noqa: E402
from pytensor_convnet.kernels.cuda.compiling_ahead import run_without_gpu  # noqa: E402
from tests.kernels.cuda.test_tuning import task_of  # noqa: E402

COMPILED_AHEAD = """
from dataclasses import replace

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget

from pytensor_convnet.kernels.cuda import copying, gather_kernel, magnitudes, packing
from pytensor_convnet.kernels.cuda.candidates import candidates
from pytensor_convnet.kernels.cuda.carrying_out import carry_out
from pytensor_convnet.kernels.cuda.compiling_ahead import described, run_without_gpu, without_gpu
from pytensor_convnet.kernels.cuda.formats import empty
from tests.kernels.cuda.test_tuning import task_of

task, target = task_of(), GPUTarget("cuda", 90, 32)
method = candidates(task, 1)[0]
operands = [empty(task.geometry.images, "batch_last", torch.float32, "cpu"), torch.ones(task.geometry.filters)]
compiled, on_meta = [], replace(task, device=torch.device("meta"))
knobs.compilation.listener = lambda metadata, **_: compiled.append(metadata["name"])
assert run_without_gpu(carry_out, (on_meta, method), described(operands), target, {"TRITON_CACHE_DIR": FOLDER})
assert "_gather_correlate" in compiled, compiled

# The CPU's memory stands for the GPU's. Nothing new is compiled.
compiled.clear()
for module in (copying, gather_kernel, magnitudes, packing):
    module.launch_options = lambda device: {"DEPENDENT": True, "launch_pdl": True}
with without_gpu(target):
    carry_out(replace(task, device=torch.device("cpu")), method, *operands)
assert not compiled, compiled
"""


def test_kernels_compiled_without_a_gpu_are_those_that_tensors_ask_for(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    script = COMPILED_AHEAD.replace("FOLDER", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WINDOWS_COMPILED_AHEAD = """
from dataclasses import replace
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget

from pytensor_convnet.kernels.cuda.carrying_out import carry_out
from pytensor_convnet.kernels.cuda.compiling_ahead import described, run_without_gpu
from pytensor_convnet.kernels.cuda.formats import empty
from pytensor_convnet.kernels.cuda.methods import Unrolled, Window, WindowShare
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks
from pytensor_convnet.kernels.cuda.window_kernel import WindowBlocks
from tests.kernels.cuda.test_tuning import task_of

task, target = task_of(), GPUTarget("cuda", 90, 32)
shapes = task.geometry.images, task.geometry.maps
images, maps = (empty(shape, "batch_last", torch.float32, "cpu") for shape in shapes)
filters, compiled = torch.ones(task.geometry.filters), set()
one, some = replace(task.geometry, images=(1, *task.geometry.images[1:])), task.geometry
for name, geometry, method, operands in (
    ("correlate2d", some, Window("tf32", (1, 1), WindowBlocks(2, 1, 3, 1)), (images, filters)),
    ("correlate2d", one, Unrolled(Window("tf32", (1, 1), WindowBlocks(1, 2, 3, 1))), (torch.ones(one.images), filters)),
    ("correlate2d_input_grad", some, Window("float16", (2, 2), WindowBlocks(1, 1, 16, 1)), (filters, maps)),
    ("correlate2d_filter_grad", some, WindowShare("tf32", WindowGradBlocks(True, 4, 1, 3, 32, 1)), (images, maps)),
):
    on_meta = replace(task_of(name=name), geometry=geometry, device=torch.device("meta"))
    settings = {"TRITON_CACHE_DIR": FOLDER}
    settings["PYTENSOR_CONVNET_CUBIN_CACHE"] = str(Path(FOLDER) / "cubins")
    assert run_without_gpu(carry_out, (on_meta, method), described(operands), target, settings), method
    found = set(Path(settings["PYTENSOR_CONVNET_CUBIN_CACHE"]).rglob("*"))
    assert found > compiled, method
    compiled = found
"""


def test_windows_are_compiled_without_a_gpu(tmp_path):
    if runtime_compiler._nvrtc() is None:
        pytest.skip("there is no NVRTC")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = WINDOWS_COMPILED_AHEAD.replace("FOLDER", repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PAST_32_BITS = """
import torch
from triton.backends.compiler import GPUTarget

from pytensor_convnet.kernels.cuda import magnitudes
from pytensor_convnet.kernels.cuda.compiling_ahead import run_without_gpu, without_gpu
from pytensor_convnet.kernels.cuda.conv_pool_grad_kernel import PoolGradBlocks
from pytensor_convnet.kernels.cuda.conv_pool_kernel import PoolBlocks
from pytensor_convnet.kernels.cuda.conv_pool_methods import Pair, PoolGather, PoolShare, PoolTask, Spread
from pytensor_convnet.kernels.cuda.conv_pool_methods import carry_out as pooled
from pytensor_convnet.kernels.cuda.correlation_grads import GradsTask, Joint
from pytensor_convnet.kernels.cuda.correlation_grads import carry_out as gradients
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.formats import strides
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.methods import Share
from pytensor_convnet.kernels.cuda.pool_plans import check_pool

target, meta = GPUTarget("cuda", 90, 32), torch.device("meta")
geometry = Geometry((2**16, 2, 130, 129), (2, 2, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)
images, filters, maps = geometry.images, geometry.filters, geometry.maps


def said(*shapes, dtype=torch.float32):
    return [(shape, strides(shape, "batch_last" if shape[0] > 2 else "bc01"), dtype) for shape in shapes]


task = GradsTask("correlate2d_grads", geometry, torch.float32, "medium", ("batch_last",) * 3, meta)
for method in (Joint("float16"), Joint("bf16x3"), Pair()):
    assert run_without_gpu(gradients, (task, method), said(images, filters, maps), target, {}), method
windows = check_pool(maps, (2, 2), (2, 2), ((0, 0), (0, 0)), True)
pool = (geometry, torch.float32, "medium", ("batch_last",) * 3, meta, windows, "relu", torch.uint8)
given = [*said(images, filters), ((2,), (1,), torch.float32)]
forward = PoolGather(True, "bf16x3", PoolBlocks(16, 64, (2, 1), (32,), 8, 4, 1, True))
for method in (forward, Pair()):
    assert run_without_gpu(pooled, (PoolTask("correlate2d_max_pool2d", *pool), method), given, target, {}), method
small = (images[0], 2, windows.out_rows, windows.out_columns)
given = [*said(images), *said(small, dtype=torch.uint8), *said(small)]
task = PoolTask("correlate2d_max_pool2d_filter_grad", *pool)
share = Share(True, "bf16x3", (1, 1), GradBlocks(32, 16, 32, 32, 132, 4, 3))
for method in (share, PoolShare(True, "bf16x3", PoolGradBlocks(32, 16, 32, 132, 4, 1))):
    assert run_without_gpu(pooled, (task, Spread(None, method)), given, target, {}), method
with without_gpu(target):  # only one of them past 2**31 elements
    magnitudes.largest_magnitudes(*(torch.empty(size, device="meta") for size in (3, 2**31, 5)))
"""


def test_kernels_for_tensors_past_two_to_the_31_elements_can_be_compiled(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PAST_32_BITS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_are_those_of_the_process_that_asks_and_then_as_before(monkeypatch):
    monkeypatch.setenv("TRITON_OF_THIS_PROCESS", "1")
    before = dict(os.environ)
    with compiling_ahead.with_settings({"TRITON_CACHE_DIR": "elsewhere"}):
        assert compiling_ahead._settings() == {"TRITON_CACHE_DIR": "elsewhere"}
    assert dict(os.environ) == before


class Pool:
    """Processes that fail at once, or take no work any more."""

    def __init__(self, error=None):
        self.error, self.asked = error, []

    def submit(self, function, *arguments):
        if self.error is not None:
            raise self.error
        self.asked.append((function, *arguments))
        job = Future()
        job.set_exception(RuntimeError("the process has died"))
        return job


@pytest.fixture
def target(monkeypatch):
    """A driver for a GPU that is not there."""
    found = compiling_ahead.GPUTarget("cuda", 90, 32)
    with compiling_ahead.without_gpu(found):
        yield found


@pytest.fixture(autouse=True)
def nothing_begun(monkeypatch):
    monkeypatch.setattr(compiling_ahead, "_begun", {})
    monkeypatch.setattr(compiling_ahead, "_planned", [])
    monkeypatch.setattr(compiling_ahead, "_given_up", [])
    # Messages are delivered at once.
    messages = SimpleNamespace(put=lambda message: compiling_ahead._ask(*message))
    monkeypatch.setattr(compiling_ahead, "_messages", lambda: messages)


@pytest.mark.parametrize("error", [None, RuntimeError("no pipe"), OSError("closed")])
def test_processes_that_fail_stop_nobody(monkeypatch, target, error):
    pool = Pool(error)
    monkeypatch.setattr(compiling_ahead, "_pool", lambda: pool)
    compiling_ahead.compile_ahead(print, task_of(), ["a", "b", "c"], [torch.ones(2, 3)])
    on_meta, said = replace(task_of(), device=torch.device("meta")), (((2, 3), (3, 1), torch.float32),)
    expected = [(run_without_gpu, print, (on_meta, name), said, target) for name in "abc"]
    assert [asked[:5] for asked in pool.asked] == ([] if error else expected)


def test_nobody_waits_until_processes_have_started(monkeypatch, target):
    monkeypatch.undo()
    started, answered = Event(), Future()
    answered.set_result("an answer")

    class StartingPool:
        def submit(self, *asked):
            assert started.wait(10)
            return answered

    monkeypatch.setattr(compiling_ahead, "_pool", StartingPool)
    answer = compiling_ahead.submit(print)
    assert not answer.done()
    started.set()
    assert answer.result(10) == "an answer"


class WaitingPool(Pool):
    """Processes that never answer."""

    def submit(self, *asked):
        self.asked.append(asked)
        return Future()


def test_processes_that_do_not_answer_are_asked_once(monkeypatch, target):
    pool = WaitingPool()
    monkeypatch.setattr(compiling_ahead, "_pool", lambda: pool)
    monkeypatch.setattr(compiling_ahead, "PATIENCE", 0.0)
    for _ in range(2):
        compiling_ahead.await_all(compiling_ahead.compile_ahead(print, task_of(), ["a", "b", "c"], []))
    assert len(pool.asked) == 3


@pytest.fixture
def waiting_pool(monkeypatch, target):
    """Processes that are asked and never answer; two methods are given to them at a time."""
    pool = WaitingPool()
    monkeypatch.setattr(compiling_ahead, "_pool", lambda: pool)
    monkeypatch.setattr(compiling_ahead, "AHEAD", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return pool


def asked_for(pool):
    return [method for _, _, (_, method), *_ in pool.asked]


SAID = (((2, 3), (3, 1), torch.float32),)


def test_what_was_begun_before_is_awaited_and_not_begun_again(waiting_pool):
    compiling_ahead.plan(print, task_of(), ["a", "b"], SAID)
    begun = {*compiling_ahead._begun.values()}
    jobs = compiling_ahead.compile_ahead(print, task_of(), ["a", "b", "c"], [torch.ones(2, 3)])
    assert asked_for(waiting_pool) == ["a", "b", "c"]
    assert begun < {*jobs}
    assert len(jobs) == 3


def test_no_more_is_begun_than_will_be_done_soon(waiting_pool):
    compiling_ahead.plan(print, task_of(), ["a", "b", "c", "d"], SAID)
    assert asked_for(waiting_pool) == ["a", "b"]
    for job in compiling_ahead._begun.values():
        job.set_result(True)
    compiling_ahead.plan(print, task_of(), ["e"], SAID)
    assert asked_for(waiting_pool) == ["a", "b", "c", "d"]


def test_what_is_needed_first_is_begun_before_what_was_planned(waiting_pool):
    compiling_ahead.plan(print, task_of(), ["a", "b"], SAID)
    compiling_ahead.plan(print, task_of(name="correlate2d_input_grad"), ["c", "d"], SAID)
    compiling_ahead.plan(print, task_of(name="correlate2d_filter_grad"), ["e"], SAID)
    compiling_ahead.compile_ahead(print, task_of(name="correlate2d_filter_grad"), ["e"], [torch.ones(2, 3)])
    assert asked_for(waiting_pool) == ["a", "b", "e"]
    assert [method for *_, method, _ in compiling_ahead._planned] == ["c", "d"]


def test_forgotten_plans_are_not_begun(waiting_pool):
    compiling_ahead.plan(print, task_of(), ["a", "b", "c"], SAID)
    compiling_ahead.forget_plans()
    compiling_ahead.plan(print, task_of(), ["d"], SAID)
    assert asked_for(waiting_pool) == ["a", "b", "d"]


def test_for_few_methods_no_processes_are_started(monkeypatch):
    monkeypatch.setattr(compiling_ahead, "_pool", lambda: pytest.fail("processes"))
    compiling_ahead.compile_ahead(print, task_of(), ["a", "b"], [])


def test_what_cannot_be_compiled_raises_nothing(target):
    def carry_out(task, method, *operands):
        raise ValueError("too large")

    assert not run_without_gpu(carry_out, (task_of(), "a"), [], target, {})


def test_nothing_is_noted_unless_someone_listens():
    noted = []
    compiling_ahead.note("before", [])
    with compiling_ahead.noted(lambda task, operands: noted.append(task)):
        compiling_ahead.note("within", [])
    compiling_ahead.note("after", [])
    assert noted == ["within"]


class Kernel:
    """A compiled kernel."""

    def __init__(self, hash):
        self.hash, self.src, self.metadata = hash, f"source of {hash}", f"metadata of {hash}"


@pytest.fixture
def launchers(monkeypatch):
    """The kernels whose launchers are made."""
    nvidia = pytest.importorskip("triton.backends.nvidia.driver")
    made = []

    def run(kernel, *arguments, warmup, **options):
        return Kernel(kernel) if warmup else 0

    monkeypatch.setattr(compiling_ahead, "_launchers", set())
    monkeypatch.setattr(nvidia, "CudaLauncher", lambda source, metadata: made.append((source, metadata)))
    monkeypatch.setattr(JITFunction, "run", run)
    return made


def test_where_kernels_are_compiled_their_launchers_are_made_once(launchers):
    with compiling_ahead.without_gpu(compiling_ahead.GPUTarget("cuda", 90, 32)):
        for kernel in ("a", "b", "a"):
            JITFunction.run(kernel, grid=(1,), warmup=False)
    assert launchers == [("source of a", "metadata of a"), ("source of b", "metadata of b")]


def test_a_launcher_that_cannot_be_made_stops_nobody(launchers, monkeypatch):
    monkeypatch.setattr("triton.backends.nvidia.driver.CudaLauncher", lambda source, metadata: 1 / 0)
    with compiling_ahead.without_gpu(compiling_ahead.GPUTarget("cuda", 90, 32)):
        assert JITFunction.run("a", grid=(1,), warmup=False).hash == "a"


def test_one_thread_launches_nothing_while_others_do(launchers):
    def launched():
        return JITFunction.run("a", grid=(1,), warmup=False)

    with ThreadPoolExecutor(1) as other, compiling_ahead.nothing_launched():
        assert launched() is None
        assert other.submit(launched).result() == 0
    assert launched() == 0
