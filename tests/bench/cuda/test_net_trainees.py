"""Trainings in processes of their own, on torch's CPU device."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

pytest.importorskip("torch", reason="the GPU's benchmark times torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the GPU's kernels are written in Triton: pip install triton")

from pytensor_convnet.bench.cuda import net_session
from pytensor_convnet.bench.cuda.net import Implementation, Steps, Training
from pytensor_convnet.bench.cuda.net_torch import TorchEager
from pytensor_convnet.bench.cuda.net_trainees import COMPARED_STEPS, TraineeApart, TraineeFailed, TraineeHere
from tests.bench.made_up import TINY_NET

TRAINING = Training(TINY_NET, "medium", 3 * TINY_NET.batch + 1, "cpu")


class Told(Implementation):
    """An implementation whose loss is the number of the minibatch, and which does something at the third step."""

    name = "told"
    layouts = ("bc01",)

    def steps(self, training, layout):
        numbers = []

        def step(number):
            numbers.append(number)
            if len(numbers) == 3:
                self.at_the_third_step()
            return float(number)

        return Steps(step, lambda: None)

    def at_the_third_step(self):
        pass


class Unprepared(Told):
    name = "unprepared"

    def prepare(self, device):
        raise ImportError("no such library\nnowhere")


class Raising(Told):
    name = "raising"

    def at_the_third_step(self):
        raise NotImplementedError("no kernel\nfor this")


class Exiting(Told):
    name = "exiting"

    def at_the_third_step(self):
        os.write(2, b"out of everything\n\n")
        os._exit(7)


class Killed(Told):
    name = "killed"

    def at_the_third_step(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Printing(Told):
    name = "printing"

    def at_the_third_step(self):
        print("printed", flush=True)
        os.write(2, b"written")


def test_a_process_of_its_own_computes_the_same():
    found = []
    for kind in (TraineeHere, TraineeApart):
        with kind(TorchEager(), TRAINING, "channels_last") as trainee:
            trainee.prepare()
            beginning = trainee.begin()
            found.append(beginning.losses)
            assert 0 < beginning.first_seconds < beginning.seconds
            assert trainee.seconds(5) > 0
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert len(found[0]) == len(COMPARED_STEPS)


def test_minibatches_come_one_after_the_other():
    taken = []

    class Noting(Told):
        def steps(self, training, layout):
            return Steps(lambda number: taken.append(number) or 1.0, lambda: None)

    with TraineeHere(Noting(), TRAINING, "bc01") as trainee:
        trainee.begin()
        for length in (2, 5):
            trainee.seconds(length)
    assert taken == [*COMPARED_STEPS, 0, 1, 2, 0, 1, 2, 0]


def test_who_fails_or_dies_is_reported_and_the_others_are_measured(monkeypatch):
    monkeypatch.setattr(net_session, "TURN_SECONDS", 1e-4)
    monkeypatch.setattr(net_session, "TURNS", 1)
    said = []
    kinds = Unprepared, Raising, Exiting, Killed, Told
    found = net_session.measured(TRAINING, [kind() for kind in kinds], TraineeApart, lambda what: None, said.append)
    assert [(record.implementation, record.operation) for record in found] == [
        ("told", "step"),
        ("told", "first_step"),
        ("told", "first_steps"),
    ]
    assert said == [
        f"not measured: lenet, medium: {told}"
        for told in (
            "unprepared bc01: ImportError: no such library",
            "raising bc01: NotImplementedError: no kernel",
            "exiting bc01: its process ended with exit code 7: out of everything",
            "killed bc01: its process ended with exit code -9: it wrote nothing",
        )
    ]
    assert not multiprocessing.active_children()


def test_who_is_gone_is_asked_in_vain():
    with TraineeApart(Told(), TRAINING, "bc01") as trainee:
        trainee.prepare()
        [process] = multiprocessing.active_children()
        process.kill()
        process.join()
        with pytest.raises(TraineeFailed, match="its process ended with exit code -9"):
            trainee.begin()


def test_an_interrupt_ends_the_processes():
    def on_begin(what):
        if "exact" not in what:
            assert len(multiprocessing.active_children()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(net_session.measured(TRAINING, [Told()], TraineeApart, on_begin, pytest.fail))
    assert not multiprocessing.active_children()


def test_processes_are_deaf_to_ctrl_c_and_write_nothing_to_the_terminal(capfd):
    with TraineeApart(Printing(), TRAINING, "bc01") as trainee:
        [process] = multiprocessing.active_children()
        os.kill(process.pid, signal.SIGINT)
        trainee.prepare()
        trainee.begin()
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
