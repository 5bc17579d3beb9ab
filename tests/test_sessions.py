"""Epochs of steps: reports, and when numbers are read."""

import math

import numpy as np
import pytest

from pytensor_convnet import sessions
from pytensor_convnet.minibatches import SharedImages
from pytensor_convnet.sessions import Diverged, Session, StepFailed
from pytensor_convnet.settings import Settings
from pytensor_convnet.training import train
from tests.bars import QUICK, SETTINGS, made_up_dataset, make_lenet


@pytest.fixture(scope="module")
def dataset():
    return made_up_dataset()


def test_reports_count_epochs_batches_and_images(dataset, monkeypatch):
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0)
    batches, epochs = [], []
    train(make_lenet(dataset), dataset, on_batch=batches.append, on_epoch=epochs.append, **SETTINGS | {"epochs": 2})
    assert [(b.epoch, b.batch) for b in batches] == [(epoch, batch) for epoch in (1, 2) for batch in range(1, 6)]
    assert all((b.epochs, b.batches) == (2, 5) for b in batches)
    assert batches[0].loss == pytest.approx(math.log(3), rel=1e-5)
    assert [e.loss for e in epochs] == [batches[4].loss, batches[9].loss]
    assert epochs[0].images_per_second == pytest.approx(36 / epochs[0].seconds)


def test_reports_within_an_epoch_keep_their_distance(dataset, monkeypatch):
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 1000)
    batches = []
    train(make_lenet(dataset), dataset, on_batch=batches.append, **SETTINGS)
    assert [(b.epoch, b.batch) for b in batches] == [(1, 1), (1, 5), (2, 5), (3, 5)]


class Unread:
    """A number on a device, and a list of those that were read."""

    def __init__(self, value, read):
        self.value = value
        self.read = read

    def __float__(self):
        self.read.append(self.value)
        return self.value


@pytest.fixture
def session(dataset):
    data = SharedImages([(dataset.train_images, dataset.train_labels)])
    settings = Settings(8, 0.02, 0.9, 0, 0, 0)
    return Session(make_lenet(dataset), data, np.arange(40), np.arange(0), settings, QUICK)


def test_numbers_on_a_device_are_read_when_a_report_is_due_and_in_the_end(session, monkeypatch):
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 1000)
    read = []
    session.learner.step = lambda start, stop: Unread(stop / 8, read)
    session.next_report = math.inf
    reports = list(session.learn(1, 2))
    assert read == [5.0]
    assert reports[:4] == [None] * 4
    assert reports[4].loss == 5 / 40


class Late(Unread):
    """A number that is known some steps after its own."""

    def __init__(self, value, read, session, steps):
        super().__init__(value, read)
        self.session, self.known = session, session.steps + 1 + steps

    def is_ready(self):
        return self.session.steps >= self.known


def test_a_report_does_not_wait_for_a_device_and_is_of_the_step_whose_loss_is_known(session, monkeypatch):
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0)
    read = []
    session.learner.step = lambda start, stop: Late(stop / 8, read, session, steps=2)
    reports = list(session.learn(1, 2))
    assert [report and report.batch for report in reports] == [None, None, 1, None, None, 5]
    assert read == [1.0, 5.0]
    assert [report.loss for report in reports if report] == [1 / 8, 5 / 40]


def test_several_processes_report_the_same_steps_whoever_is_late(session, monkeypatch):
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0)

    class Two(type(session.processes)):
        def total(self, values):
            return 2 * values

    session.processes = Two(0, 2)
    session.learner.step = lambda start, stop: Late(stop / 8, [], session, steps=2)
    session.batches = 5
    session._order = lambda epoch: np.arange(40)
    assert [report.batch for report in session.learn(1, 1)] == [1, 2, 3, 4, 5]


def test_a_loss_on_a_device_that_explodes_is_noticed_at_the_next_report(session):
    session.learner.step = lambda start, stop: Unread(math.nan, [])
    session.next_report = math.inf
    with pytest.raises(Diverged, match="became nan in epoch 1, by minibatch 5 of 5"):
        list(session.learn(1, 1))


def test_an_error_that_comes_with_the_number_is_a_failure_of_the_step(session):
    class Broken:
        def __float__(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    session.learner.step = lambda start, stop: Broken()
    with pytest.raises(StepFailed, match="epoch 1, minibatch 1 of 5 failed: RuntimeError: CUDA error"):
        list(session.learn(1, 1))


def test_an_error_in_scoring_says_what_was_scored(session):
    session.judge.add = None
    with pytest.raises(StepFailed, match="validation after epoch 7 failed: TypeError"):
        session.score(np.arange(3), "validation after epoch 7")
