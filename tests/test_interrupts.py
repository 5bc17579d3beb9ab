"""Ctrl-C: it ends training between two steps."""

import signal

import pytest

from pytensor_convnet import sessions
from pytensor_convnet.training import train
from tests.bars import SETTINGS, made_up_dataset, make_lenet


@pytest.fixture
def dataset(monkeypatch):
    """With a report after each minibatch."""
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0)
    return made_up_dataset()


def test_ctrl_c_waits_for_the_end_of_the_minibatch(dataset):
    batches = []

    def press(report):
        batches.append(report)
        if report.epoch == 2:
            signal.raise_signal(signal.SIGINT)
            batches.append("still here")

    lenet = make_lenet(dataset)
    history = train(lenet, dataset, on_batch=press, **SETTINGS)
    assert history.interrupted
    assert (history.best_epoch, batches[-1], len(batches)) == (1, "still here", 7)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait(dataset):
    def press_twice(report):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert train(make_lenet(dataset), dataset, on_batch=press_twice, **SETTINGS).interrupted
