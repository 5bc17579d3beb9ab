"""All tasks of a step are found before the first is measured; what is not known of them is compiled side by side."""

import os
import subprocess
import sys
from concurrent.futures import Future

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.kernels.cuda import tuning_ahead  # noqa: E402
from pytensor_convnet.kernels.cuda.compiling_ahead import described  # noqa: E402
from pytensor_convnet.kernels.cuda.tuning_ahead import Call, tune_ahead  # noqa: E402
from tests.kernels.cuda.test_tuning import task_of  # noqa: E402

DEVICE = torch.device("cuda", 0)

# As after `max_pool2d` of maps of 8 x 8, with a driver for a GPU that is not there, and without Triton's interpreter,
# in a process of its own.
WITHOUT_GPU = """
import torch
import triton
from triton.backends.compiler import GPUTarget

from pytensor_convnet.kernels.cuda.compiling_ahead import without_gpu
from pytensor_convnet.kernels.cuda.formats import strides
from pytensor_convnet.kernels.cuda.tuning_ahead import Call, needs

triton.compile = None  # nothing is to be compiled
bl = lambda *shape: (shape, strides(shape, "batch_last"), torch.float32)
moves = ((1, 1), ((2, 2), (2, 2)), (1, 1), 1, True)
pools = ((2, 2), (2, 2), ((0, 0), (0, 0)))
images, filters, maps = bl(32, 16, 8, 8), ((16, 16, 5, 5), (400, 25, 5, 1), torch.float32), bl(32, 16, 4, 4)
winners = (*maps[:2], torch.uint8)
forward = Call("correlate2d_max_pool2d", ["biases"], (torch.uint8, *moves, *pools, True), {"activation": "relu"})
gradients = Call("correlate2d_max_pool2d_grads", [], (8, 8, *moves, *pools), {"late": True})
unfit = Call("correlate2d", [], moves, {})
calls = [
    (unfit, (images, ((16, 3, 5, 5), (75, 25, 5, 1), torch.float32))),
    (forward, (images, filters, ((16,), (1,), torch.float32))),
    (gradients, (images, filters, winners, maps)),
    (gradients, (images, filters, winners, maps)),
]
with without_gpu(GPUTarget("cuda", 90, 32)):
    found = needs(calls)
for task, operands in found:
    print(task.name, task.device, len(operands))
"""


def test_tasks_are_found_once_each_with_those_that_methods_are_composed_of():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_GPU], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert found[:5] == [
        "correlate2d_max_pool2d meta 3",
        "correlate2d meta 2",
        "correlate2d_max_pool2d_grads meta 4",
        "correlate2d_grads meta 3",
        "correlate2d_input_grad meta 2",
    ]
    assert "correlate2d_filter_grad meta 2" in found


@pytest.fixture
def others(monkeypatch):
    """What other processes are asked for, and which tasks' methods are to be compiled; there are two tasks."""
    asked, begun = [], []
    found = [(task_of(name=name, device="meta"), ()) for name in ("correlate2d", "correlate2d_filter_grad")]

    def submit(function, *arguments):
        asked.append(function)
        return Future()

    monkeypatch.setattr(tuning_ahead, "submit", submit)
    monkeypatch.setattr(tuning_ahead, "needs", lambda calls: found)
    monkeypatch.setattr(tuning_ahead, "plan", lambda carry_out, task, methods, operands: begun.append((task, methods)))
    monkeypatch.setattr(tuning_ahead, "is_open", lambda task: task.name != "correlate2d")
    return asked, begun


def test_methods_are_compiled_of_the_tasks_that_no_method_is_known_for(others):
    asked, begun = others
    pool = Call("max_pool2d", [], (), {})
    tune_ahead([(pool, described([torch.ones(2, 3)]))], DEVICE)
    assert asked == [tuning_ahead.run_without_gpu]
    [(task, methods)] = begun
    assert task == task_of(name="correlate2d_filter_grad", device=DEVICE)
    assert len(methods) > 3


def test_without_other_processes_nothing_happens(others, monkeypatch):
    _, begun = others
    monkeypatch.setattr(tuning_ahead, "submit", lambda *arguments: None)
    tune_ahead([(Call("max_pool2d", [], (), {}), ())], DEVICE)
    assert not begun


def test_a_call_gives_its_last_tensors_by_name():
    x, y = torch.ones(2, 3), torch.full((3, 4), 2.0)
    assert Call("late_product", [], (torch.float32,), {}).run(x, y).tolist() == [[6.0] * 4] * 2
    assert Call("late_product", ["b"], (), {"dtype": torch.float32}).run(x, y).tolist() == [[6.0] * 4] * 2
