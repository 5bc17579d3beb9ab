"""What a program calls is known before it runs, from fake tensors."""

from contextlib import nullcontext

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

torch = pytest.importorskip("torch", reason="mode CUDA is built on torch: pip install torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet import conv2d, max_pool_2d  # noqa: E402
from pytensor_convnet.cuda import ahead  # noqa: E402
from pytensor_convnet.kernels.cuda import tuning, tuning_ahead  # noqa: E402

IMAGES = (2, 3, 8, 8)


def given_images():
    """Images that a step is called with, its inputs, and their values."""
    images = pt.tensor("images", shape=IMAGES, dtype="float32")
    return images, [images], [np.ones(IMAGES, "float32")]


def selected_images():
    """The same for images that are shared, of which a number selects a minibatch."""
    data, number = pytensor.shared(np.ones((6, *IMAGES[1:]), "float32"), shape=(6, *IMAGES[1:])), pt.lscalar()
    return data[number * 2 : (number + 1) * 2], [number], [1]


def layer(images):
    """The loss, and updates, of a layer with a pool."""
    random = np.random.default_rng(0)
    filters = pytensor.shared(random.normal(size=(4, 3, 3, 3)).astype("float32"), shape=(4, 3, 3, 3))
    loss = (max_pool_2d(conv2d(images, filters), (2, 2)) ** 2).sum()
    return loss, {filters: filters - pytensor.grad(loss, filters)}


@pytest.fixture
def called(monkeypatch):
    """The names of functions, and the shapes of tensors, that were foreseen, and those that were called."""
    foreseen, made = [], []
    monkeypatch.setattr(tuning_ahead, "tune_ahead", lambda calls, device: foreseen.extend(calls))
    run = tuning_ahead.Call.run

    def noted(call, *tensors):
        made.append((call.name, [tuple(tensor.shape) for tensor in tensors]))
        return run(call, *tensors)

    monkeypatch.setattr(tuning_ahead.Call, "run", noted)
    return foreseen, made


@pytest.mark.parametrize("images_of", [given_images, selected_images])
def test_what_a_program_calls_is_foreseen(interpreter, mode, called, monkeypatch, images_of):
    foreseen, made = called
    images, inputs, values = images_of()
    loss, updates = layer(images)
    step = pytensor.function(inputs, loss, updates=updates, mode=mode)

    def foresee(program, tensors, host, known):
        return tuning.foreseeing(lambda: ahead._tune_ahead(program, tensors, host, known))

    monkeypatch.setattr("pytensor_convnet.cuda.execution.foreseen", foresee)
    choose = tuning.choose

    def choose_after_foreseeing(task, operands):
        tuning._begin_foreseen()
        return choose(task, operands)

    for module in ("conv_pool", "correlation"):
        monkeypatch.setattr(f"pytensor_convnet.kernels.cuda.{module}.choose", choose_after_foreseeing)
    step(*values)
    expected = [(call.name, [shape for shape, _, _ in operands]) for call, operands in foreseen]
    assert expected == made
    assert {name for name, _ in made} == {"correlate2d_max_pool2d", "correlate2d_max_pool2d_filter_grad"}


def test_a_program_that_cannot_be_foreseen_runs_all_the_same(called):
    ahead._tune_ahead(program=None, inputs=[], host=None, known={})
    assert called == ([], [])


def test_only_what_runs_on_a_gpu_is_foreseen(mode, device):
    images, inputs, _ = given_images()
    loss, updates = layer(images)
    program = pytensor.function(inputs, loss, updates=updates, mode=mode).vm.program
    context = ahead.foreseen(program, inputs=[], host=None, known={})
    assert isinstance(context, nullcontext) == (device == "cpu")
