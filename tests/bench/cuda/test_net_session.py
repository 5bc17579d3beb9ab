"""Training networks on torch's CPU device: everything that a GPU does, but for the capture and the speed."""

import os
import re

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("torch", reason="the GPU's benchmark times torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the GPU's kernels are written in Triton: pip install triton")

from pytensor_convnet.bench import records
from pytensor_convnet.bench.cuda import net, net_session, net_torch
from pytensor_convnet.bench.cuda.net import Ours, Steps, Training
from pytensor_convnet.bench.cuda.net_jax import Jax
from pytensor_convnet.bench.cuda.net_torch import TorchCaptured, TorchCompiled, TorchEager
from pytensor_convnet.bench.cuda.net_trainees import TraineeHere
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.nets import GPU_NET, Conv, Dense, NetCase, Pool
from tests.bench.made_up import TINY_NET

pytestmark = pytest.mark.usefixtures("mode_cuda_on_the_cpu")
MACHINE = GpuMachine("A GPU", {"torch": "2.11"}, 379e12, 709e12, 3e12)
TINY_CONVNET = NetCase(
    "cuda_convnet_b6",
    6,
    (3, 9, 8),
    (
        *(Conv(32, 5, padding=2), Pool(3, 2, 1), "relu"),
        *(Conv(32, 5, padding=2), "relu", Pool(3, 2, 1, "average")),
        *(Conv(64, 5, padding=2), "relu", Pool(3, 2, 1, "average")),
        Dense(4),
    ),
    momentum=0.9,
    of_model="cuda_convnet",
)


@pytest.fixture
def mode_cuda_on_the_cpu(monkeypatch):
    monkeypatch.setenv("PYTENSOR_CONVNET_DEVICE", "cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # the kernels' own tests set it, and may run before in the same process


class Compiled(TorchCompiled):
    backend = "aot_eager"  # what the compiler generates is its own affair


class Captured(TorchCaptured):
    backend = "aot_eager"


class InPlaceOfOurs(TorchEager):
    """An implementation that is ready at once, under our name."""

    name = Ours.name
    layouts = Ours.layouts


class Unable(TorchEager):
    """An implementation that does not get as far as a step."""

    name = "unable"
    layouts = ("bc01",)

    def steps(self, training, layout):
        raise NotImplementedError("no kernel\nfor this")


class Divergent(TorchEager):
    """An implementation whose loss is no number."""

    name = "divergent"
    layouts = ("bc01",)

    def steps(self, training, layout):
        return Steps(lambda number: np.float32("nan"), training.wait)


class Forgetful(TorchEager):
    """An implementation that does not learn from its second minibatch."""

    name = "forgetful"
    layouts = ("bc01",)

    def steps(self, training, layout):
        steps = super().steps(training, layout)
        return Steps(lambda number: steps.step(0), steps.wait)


class Whereabouts(TorchEager):
    """An implementation that fails, and tells in which process."""

    name = "whereabouts"

    def steps(self, training, layout):
        raise RuntimeError(f"process {os.getpid()}")


class Breaking(TorchEager):
    """An implementation that fails when it is to be timed."""

    name = "breaking"
    layouts = ("bc01",)

    def steps(self, training, layout):
        steps = super().steps(training, layout)

        def step(number):
            if number > 1:
                raise RuntimeError("broken")
            return steps.step(number)

        return Steps(step, steps.wait)


def training(case=TINY_CONVNET, precision="medium"):
    return Training(case, precision, 3 * case.batch + 1, "cpu")


def measured(*implementations, monkeypatch, said=None, **which):
    monkeypatch.setattr(net_session, "TURN_SECONDS", 1e-3)
    monkeypatch.setattr(net_session, "TURNS", 1)
    reports = [] if said is None else said
    trained = net_session.measured(training(**which), implementations, TraineeHere, lambda what: None, reports.append)
    found = list(trained)
    assert said is not None or reports == []
    return found


def skip_without(kind):
    """Skip where JAX is asked for and is not there, or computes on a GPU, which these small trainings are not for."""
    if kind is Jax and pytest.importorskip("jax").default_backend() != "cpu":
        pytest.skip("JAX computes on a GPU here")


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        *((kind, TINY_CONVNET) for kind in (Ours, TorchEager, Compiled, Captured, Jax)),
        *((kind, TINY_NET) for kind in (Ours, TorchEager, Jax)),
    ],
    ids=lambda value: getattr(value, "model", None),
)
def test_all_compute_the_same(monkeypatch, kind, case):
    skip_without(kind)
    found = measured(kind(), monkeypatch=monkeypatch, case=case)
    assert [(r.operation, r.layout) for r in found] == [
        (operation, layout) for layout in kind.layouts for operation in ("step", "first_step", "first_steps")
    ]
    for record in found:
        assert (record.suite, record.case, record.device) == ("net", case.name, "cpu")
        assert (record.dtype, record.precision, record.implementation) == ("float32", "medium", kind.name)
        assert record.seconds > 0
    assert all(record.relative_error < 1e-6 for record in found if record.operation == "step")


@pytest.mark.parametrize("kind", [TorchEager, Compiled, Captured, Jax])
def test_peers_have_less_precision_where_it_is_asked_for(monkeypatch, kind):
    skip_without(kind)
    for record in measured(kind(), monkeypatch=monkeypatch, precision="bf16")[::3]:
        assert record.dtype == "bfloat16"
        assert 1e-6 < record.relative_error < 1e-2


def test_who_cannot_is_reported_and_the_others_are_measured(monkeypatch):
    said = []
    found = measured(Unable(), Divergent(), TorchEager(), monkeypatch=monkeypatch, said=said)
    assert {record.implementation for record in found} == {"torch eager"}
    unable, divergent = said
    assert unable == "not measured: cuda_convnet_b6, medium: unable bc01: NotImplementedError: no kernel"
    assert divergent.startswith("not measured: cuda_convnet_b6, medium: divergent bc01: ArithmeticError: the losses of")


def test_who_computes_something_else_differs(monkeypatch):
    right, wrong = measured(TorchEager(), Forgetful(), monkeypatch=monkeypatch)[3::3]
    assert right.relative_error < 1e-6 < 1e-2 < wrong.relative_error


def test_a_captured_training_starts_where_all_do():
    learner = net_torch._Learner(training(), "channels_last")
    first = [float(learner.step(learner.loss_of, *learner.minibatch(number))) for number in (0, 1)]
    learner.start_again()
    assert [float(learner.step(learner.loss_of, *learner.minibatch(number))) for number in (0, 1)] == first
    assert first[0] != first[1]


def test_trainees_take_turns():
    taken = []

    class Instant(TraineeHere):
        def seconds(self, length):
            taken.append((self.layout, length))
            return {"short": 1e-3, "long": 5e-3}[self.layout]

    trainees = {layout: Instant(TorchEager(), training(), layout) for layout in ("short", "long")}
    seconds = net_session.step_seconds(trainees, turn_seconds=0.02, turns=3, on_failure=pytest.fail)
    assert seconds == {"short": 1e-3, "long": 5e-3}
    lengths = [("short", 3), ("short", 10), ("long", 3), ("long", 10)]
    assert taken == lengths + 3 * [("short", 3), ("short", 20), ("long", 1), ("long", 4)]


def test_who_fails_in_a_turn_is_reported_and_the_others_go_on(monkeypatch):
    said = []
    found = measured(Breaking(), TorchEager(), monkeypatch=monkeypatch, said=said)
    assert {record.implementation for record in found} == {"torch eager"}
    assert said == ["not measured: cuda_convnet_b6, medium: breaking bc01: RuntimeError: broken"]


@pytest.mark.parametrize(("case", "number"), [("lenet", 50_000), ("cuda_convnet_b1024", 50_000), ("alexnet", 1062)])
def test_how_many_images_lie_on_the_gpu(case, number):
    assert net.resident_images(GPU_NET[case]) == number


@pytest.fixture
def a_tiny_gpu(monkeypatch):
    """A run on torch's CPU device, of a tiny network."""
    monkeypatch.setattr(net_session, "Ours", InPlaceOfOurs)
    monkeypatch.setattr(GpuMachine, "measured", lambda packages: MACHINE)
    monkeypatch.setattr(net_session, "PEERS", {"torch": (TorchEager, Unable)})
    monkeypatch.setitem(net_session.GPU_NET, "tiny", TINY_CONVNET)
    monkeypatch.setattr(net_session, "Training", lambda *which: Training(*which, "cpu"))
    monkeypatch.setattr(net_session, "resident_images", lambda case: 3 * case.batch)
    monkeypatch.setattr(net_session, "TURN_SECONDS", 1e-3)
    monkeypatch.setattr(net_session, "TURNS", 1)


@pytest.mark.usefixtures("a_tiny_gpu")
def test_in_a_run_each_has_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(net_session, "PEERS", {"torch": (Whereabouts,)})
    console = Console(record=True, width=120)
    found = net_session.run_benchmark(console, ["tiny"], ["torch"], precisions=["bf16"])
    assert [(record.implementation, record.precision) for record in found] == [(Ours.name, "bf16")] * 3
    processes = re.findall("whereabouts .*: process ([0-9]+)", console.export_text())
    assert len({*processes, str(os.getpid())}) == 3


@pytest.mark.usefixtures("a_tiny_gpu")
def test_a_run_shows_figures_and_writes_records(monkeypatch, tmp_path):
    monkeypatch.setattr(net_session, "TraineeApart", TraineeHere)
    console = Console(record=True, width=120, force_terminal=False)
    found = net_session.run_benchmark(console, ["tiny"], ["torch", "not_a_package"], tmp_path / "file.json")
    text = console.export_text()
    assert records.read(tmp_path / "file.json", GpuMachine) == (MACHINE, found)
    assert len(found) == 2 * (1 + 2) * 3  # precisions, layouts of ours and torch's, operations
    for told in (
        "not measured, for it is not installed: not_a_package",
        "not measured: cuda_convnet_b6, bf16: unable bc01",
        "net, medium: microseconds a step",
        "cuda_convnet_b6, medium: best peer / ours",
        "net: seconds to the end of the first step and of the tenth",
    ):
        assert told in text


@pytest.mark.usefixtures("a_tiny_gpu")
def test_an_interrupt_shows_what_is_known(monkeypatch):
    def interrupted(training, *others):
        if training.precision == "bf16":
            raise KeyboardInterrupt
        return [*measure(training, *others)]

    monkeypatch.setattr(net_session, "TraineeApart", TraineeHere)
    measure = net_session.measured
    monkeypatch.setattr(net_session, "measured", interrupted)
    console = Console(record=True, width=120)
    found = net_session.run_benchmark(console, ["tiny"], ["torch"])
    assert {record.precision for record in found} == {"medium"}
    assert "interrupted; what is known by now" in console.export_text()


def test_an_unknown_precision_is_told():
    with pytest.raises(ValueError, match="precisions must be among medium, bf16, got 'high'"):
        net_session.run_benchmark(Console(), ["lenet"], [], precisions=["medium", "high"])


def test_medium_is_the_mode_of_that_name():
    assert Ours().mode("medium") == "CUDA"
