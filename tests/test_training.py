"""Training: that it learns, keeps the best parameters, goes on where it stopped, and ends well when it fails."""

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from pytensor_convnet import sessions, training
from pytensor_convnet.datasets import Dataset
from pytensor_convnet.history import Score
from pytensor_convnet.learning import Learner, evaluate
from pytensor_convnet.models import Lenet
from pytensor_convnet.training import Diverged, InvalidSetting, StepFailed, train
from tests.bars import QUICK, SETTINGS, Dropout, made_up_dataset, make_lenet, same_values


@pytest.fixture(scope="module")
def dataset():
    return made_up_dataset()


@pytest.fixture
def every_batch_reported(monkeypatch):
    """Reports come after every minibatch, however little time has passed."""
    monkeypatch.setattr(sessions, "REPORT_SECONDS", 0)


def test_it_learns(dataset):
    lenet = make_lenet(dataset)
    before = evaluate(lenet, dataset.test_images, dataset.test_labels, mode=QUICK)
    assert before.loss == pytest.approx(math.log(3), rel=1e-5)
    history = train(lenet, dataset, **SETTINGS)
    losses = [epoch.loss for epoch in history.epochs]
    assert losses == sorted(losses, reverse=True)
    assert history.test.accuracy > 0.9
    assert history.test.loss < 0.5


def test_history_says_what_the_network_does_in_the_end(dataset):
    lenet = make_lenet(dataset)
    history = train(lenet, dataset, **SETTINGS)
    assert len(history.epochs) == 3
    assert history.compile_seconds > 0
    assert history.training_seconds > 0
    assert history.images_per_second == pytest.approx(3 * 36 / history.training_seconds)
    again = evaluate(lenet, dataset.test_images, dataset.test_labels, batch_size=7, mode=QUICK)
    assert again.accuracy == history.test.accuracy
    assert again.loss == pytest.approx(history.test.loss, rel=1e-4)
    assert history.validation == history.epochs[history.best_epoch - 1].validation


def test_the_same_seed_gives_the_same_training_and_another_another(dataset):
    values = []
    for seed in (0, 0, 1):
        lenet = make_lenet(dataset)
        train(lenet, dataset, seed=seed, **SETTINGS | {"epochs": 1})
        values.append(lenet.get_values())
    assert same_values(values[0], values[1])
    assert not same_values(values[0], values[2])


def test_the_call_that_compiles_changes_nothing(dataset):
    lenet = make_lenet(dataset)
    before = lenet.get_values()

    def stop(seconds):
        assert seconds > 0
        assert same_values(before, lenet.get_values())
        raise StopIteration

    with pytest.raises(StopIteration):
        train(lenet, dataset, on_compiled=stop, **SETTINGS)


@pytest.mark.usefixtures("every_batch_reported")
def test_an_interrupt_keeps_the_best_parameters_so_far(dataset):
    lenet = make_lenet(dataset)
    seen = []

    def interrupt_later(report):
        if report.epoch == 2 and report.batch == 3:
            raise KeyboardInterrupt

    def remember(report):
        seen.append(lenet.get_values())

    history = train(lenet, dataset, on_batch=interrupt_later, on_epoch=remember, **SETTINGS)
    assert history.interrupted
    assert history.best_epoch == 1
    assert len(history.epochs) == 1
    assert history.test is not None
    assert same_values(lenet.get_values(), seen[0])


def test_the_best_epoch_is_kept_not_the_last(dataset, monkeypatch):
    lenet = make_lenet(dataset)
    seen = []
    accuracies = iter([0.5, 0.75, 0.75, 0, 0, 0])
    monkeypatch.setattr(sessions.Session, "score", lambda *_, **__: Score(1.0, next(accuracies)))
    history = train(lenet, dataset, on_epoch=lambda _: seen.append(lenet.get_values()), **SETTINGS)
    assert history.best_epoch == 2
    assert same_values(lenet.get_values(), seen[1])
    assert not same_values(seen[1], seen[2])


def test_of_epochs_as_accurate_the_one_of_least_loss_is_kept(dataset, monkeypatch):
    losses = iter([0.5, 0.3, 0.4, 0, 0, 0])
    monkeypatch.setattr(sessions.Session, "score", lambda *_, **__: Score(next(losses), 0.9))
    assert train(make_lenet(dataset), dataset, **SETTINGS).best_epoch == 2


def test_an_interrupt_before_the_first_epoch_ends_keeps_what_was_learnt(dataset):
    lenet = make_lenet(dataset)
    before = lenet.get_values()

    def interrupt(report):
        raise KeyboardInterrupt

    history = train(lenet, dataset, on_batch=interrupt, **SETTINGS)
    assert history.interrupted
    assert history.best_epoch is None
    assert history.epochs == []
    assert history.images_per_second == 0
    assert not same_values(lenet.get_values(), before)


def test_the_test_images_decide_nothing(dataset):
    values = []
    for labels in (dataset.test_labels, np.zeros_like(dataset.test_labels)):
        other = Dataset(
            "bars", dataset.train_images, dataset.train_labels, dataset.test_images, labels, ("a", "b", "c")
        )
        lenet = make_lenet(other)
        train(lenet, other, **SETTINGS)
        values.append(lenet.get_values())
    assert same_values(*values)


def test_a_loss_that_explodes_stops_training_and_keeps_the_best_parameters(dataset):
    lenet = make_lenet(dataset)
    seen = []

    def poison(report):
        seen.append(lenet.get_values())
        lenet.parameters["softmax_biases"].set_value(np.full(3, np.nan, "float32"))

    with pytest.raises(
        Diverged, match=r"loss became nan in epoch 2, by minibatch 1 of 5.*lower learning_rate \(it is 0.02\)"
    ):
        train(lenet, dataset, on_epoch=poison, **SETTINGS)
    assert same_values(lenet.get_values(), seen[0])


def test_it_trains_in_another_thread_than_the_main_one(dataset):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(train(make_lenet(dataset), dataset, **SETTINGS)))
    thread.start()
    thread.join()
    assert len(histories[0].epochs) == 3


def test_a_batch_of_all_images_is_allowed(dataset):
    history = train(make_lenet(dataset), dataset, **SETTINGS | {"batch_size": 36, "epochs": 1})
    assert len(history.epochs) == 1


def test_without_images_held_out_the_last_epoch_is_kept(dataset):
    lenet = make_lenet(dataset)
    seen = []
    history = train(
        lenet, dataset, validation_fraction=0, on_epoch=lambda _: seen.append(lenet.get_values()), **SETTINGS
    )
    assert history.best_epoch == 3
    assert history.validation is None
    assert [epoch.validation for epoch in history.epochs] == [None] * 3
    assert same_values(lenet.get_values(), seen[2])
    assert history.images_per_second == pytest.approx(3 * 40 / history.training_seconds)


@pytest.fixture
def slow_device(monkeypatch):
    """No loss is known before it is waited for, as where a device computes it."""
    monkeypatch.setattr(sessions.Session, "_is_known", lambda session, number: False)


WHOLE = SETTINGS | {"validation_fraction": 0, "epochs": 3, "overlap_epochs": True}


def test_callbacks_see_the_network_as_it_is_after_an_epoch(dataset, slow_device):
    lenet, seen = make_lenet(dataset), []
    train(lenet, dataset, on_epoch=lambda _: seen.append(lenet.get_values()), **WHOLE | {"overlap_epochs": False})
    shorter = make_lenet(dataset)
    train(shorter, dataset, **WHOLE | {"epochs": 1})
    assert same_values(seen[0], shorter.get_values())


def test_an_epoch_begins_while_a_device_computes_the_one_before(dataset, slow_device, monkeypatch):
    monkeypatch.setattr(training, "STEPS_AHEAD", 2)
    events = []
    learn = sessions.Session.learn

    def noted(session, epoch, *rest):
        for report in learn(session, epoch, *rest):
            events.append(f"step of {epoch}")
            yield report

    monkeypatch.setattr(sessions.Session, "learn", noted)
    train(make_lenet(dataset), dataset, on_epoch=lambda report: events.append(f"end of {report.epoch}"), **WHOLE)
    ends = {epoch: events.index(f"end of {epoch}") for epoch in (1, 2, 3)}
    assert events[: ends[1]].count("step of 2") == 2
    assert events[: ends[2]].count("step of 3") == 2
    assert events[-1] == "end of 3"


def test_an_epoch_that_begins_early_changes_nothing_that_is_learnt_or_reported(dataset, slow_device, monkeypatch):
    early, late = make_lenet(dataset), make_lenet(dataset)
    ahead = train(early, dataset, **WHOLE)
    monkeypatch.undo()
    history = train(late, dataset, **WHOLE)
    assert same_values(early.get_values(), late.get_values())
    assert [epoch.loss for epoch in ahead.epochs] == [epoch.loss for epoch in history.epochs]
    assert ahead.test == history.test


def test_an_interrupt_undoes_the_steps_of_an_epoch_that_began_early(dataset, slow_device):
    def interrupt(report):
        raise KeyboardInterrupt

    stopped, shorter = make_lenet(dataset), make_lenet(dataset)
    assert train(stopped, dataset, on_epoch=interrupt, **WHOLE).interrupted
    train(shorter, dataset, **WHOLE | {"epochs": 1})
    assert same_values(stopped.get_values(), shorter.get_values())


def test_a_failure_of_an_epoch_that_began_early_comes_after_the_end_of_the_one_before(
    dataset, slow_device, monkeypatch
):
    learn, ended = sessions.Session.learn, []

    def failing(session, epoch, *rest):
        if epoch == 2:
            raise StepFailed("epoch 2, minibatch 1 of 5 failed")
        yield from learn(session, epoch, *rest)

    monkeypatch.setattr(sessions.Session, "learn", failing)
    with pytest.raises(StepFailed, match="epoch 2, minibatch 1") as failure:
        train(make_lenet(dataset), dataset, on_epoch=lambda report: ended.append(report.epoch), **WHOLE)
    assert ended == [1]
    assert failure.value.epoch == 1


def test_a_loss_that_explodes_in_an_epoch_that_began_early_keeps_the_one_before(dataset, slow_device, monkeypatch):
    learn, ended = sessions.Session.learn, []

    def exploding(session, epoch, *rest):
        if epoch == 2:
            raise Diverged("the loss became nan in epoch 2, by minibatch 1 of 5")
        yield from learn(session, epoch, *rest)

    stopped, shorter = make_lenet(dataset), make_lenet(dataset)
    train(shorter, dataset, **WHOLE | {"epochs": 1})
    monkeypatch.setattr(sessions.Session, "learn", exploding)
    with pytest.raises(Diverged, match="in epoch 2"):
        train(stopped, dataset, on_epoch=lambda report: ended.append(report.epoch), **WHOLE)
    assert ended == [1]
    assert same_values(stopped.get_values(), shorter.get_values())


def test_epochs_of_streamed_minibatches_do_not_overlap(dataset, slow_device, monkeypatch):
    begun = []
    begin = training._Epoch.begin
    monkeypatch.setattr(training._Epoch, "begin", lambda epoch, steps: begun.append(steps) or begin(epoch, steps))
    train(make_lenet(dataset), dataset, stream=True, **WHOLE)
    assert begun == [0, 0, 0]


def test_seconds_of_epochs_that_begin_early_are_counted_once(dataset, slow_device):
    start = time.perf_counter()
    history = train(make_lenet(dataset), dataset, **WHOLE)
    assert 0 < history.training_seconds < time.perf_counter() - start - history.compile_seconds


def test_it_learns_from_moved_copies(dataset):
    seen = []
    history = train(make_lenet(dataset), dataset, **SETTINGS, shift=1, on_batch=seen.append)
    held_out = round(training.VALIDATION_FRACTION * len(dataset.train_images))
    images_an_epoch = 5 * (len(dataset.train_images) - held_out)
    assert seen[-1].batches == math.ceil(images_an_epoch / SETTINGS["batch_size"])
    assert history.test.accuracy > 0.9


@pytest.mark.parametrize("network", [Lenet, Dropout])
@pytest.mark.parametrize("fraction", [0.1, 0])
def test_a_training_that_is_resumed_is_the_same_as_one_that_never_stopped(dataset, network, fraction):
    def states(epochs, resume=None):
        seen = []
        lenet = network(np.random.default_rng(0), dataset.image_shape, dataset.number_of_classes)
        settings = SETTINGS | {"epochs": epochs, "validation_fraction": fraction}
        history = train(lenet, dataset, resume=resume, on_state=seen.append, **settings)
        return seen, lenet.get_values(), history

    at_once, values, history = states(4)
    resumed, same, same_history = states(4, resume=states(2)[0][-1])
    assert (len(at_once), len(resumed), len(same_history.epochs)) == (4, 2, 4)
    for name in ("parameters", "velocities", "best_parameters"):
        assert same_values(getattr(at_once[-1], name), getattr(resumed[-1], name))
    np.testing.assert_array_equal(at_once[-1].random_states, resumed[-1].random_states)
    assert len(at_once[-1].random_states) == (network is Dropout)
    assert same_values(values, same)
    assert (history.best_epoch, history.test) == (same_history.best_epoch, same_history.test)
    assert [epoch.loss for epoch in history.epochs] == [epoch.loss for epoch in same_history.epochs]


def test_a_best_epoch_before_the_resumption_is_kept(dataset, monkeypatch):
    accuracies = iter([0.9, 0, 0, 0, 0.5, 0, 0, 0])
    monkeypatch.setattr(sessions.Session, "score", lambda *_, **__: Score(1.0, next(accuracies)))
    states = []
    train(make_lenet(dataset), dataset, on_state=states.append, **SETTINGS | {"epochs": 1})
    lenet = make_lenet(dataset)
    history = train(lenet, dataset, resume=states[0], **SETTINGS | {"epochs": 2})
    assert history.best_epoch == 1
    assert same_values(lenet.get_values(), states[0].parameters)


@pytest.fixture(scope="module")
def state(dataset):
    """A training after its first epoch."""
    states = []
    train(make_lenet(dataset), dataset, on_state=states.append, **SETTINGS | {"epochs": 1})
    return states[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "resumed with its own settings and data: seed was 0 and is 1"),
        ({"batch_size": 9, "momentum": 0.5}, "batch_size was 8 and is 9; momentum was 0.9 and is 0.5"),
        ({"dataset": made_up_dataset(seed=1)}, "images was '[0-9a-f]{64}' and is '[0-9a-f]{64}'"),
    ],
)
def test_a_training_is_not_resumed_with_other_settings_or_data(dataset, state, changes, message):
    with pytest.raises(InvalidSetting, match=message):
        train(**{"model": make_lenet(dataset), "dataset": dataset, "resume": state} | SETTINGS | changes)


def test_a_training_is_not_resumed_for_fewer_epochs_than_it_has(dataset, state):
    finished = state.epochs * 5
    with pytest.raises(InvalidSetting, match="epochs must be at least the 5 that are finished, got 3"):
        train(make_lenet(dataset), dataset, resume=replace(state, epochs=finished), **SETTINGS)


def test_streamed_minibatches_teach_the_same_as_images_that_lie_whole(dataset):
    values = []
    for stream in (False, True):
        lenet = make_lenet(dataset)
        train(lenet, dataset, stream=stream, **SETTINGS)
        values.append(lenet.get_values())
    assert same_values(*values)


def failing_learner(call):
    """A `Learner` whose step fails when it is called so many times."""

    class FailingLearner(Learner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            step, calls = self.step, iter(range(1, 1000))

            def failing_step(*minibatch):
                if next(calls) == call:
                    raise MemoryError("out of memory\nApply node that caused the error: ...")
                return step(*minibatch)

            failing_step.get_shared = step.get_shared
            self.step = failing_step

    return FailingLearner


def test_a_step_that_fails_ends_training_with_the_best_parameters(dataset, monkeypatch):
    monkeypatch.setattr(sessions, "Learner", failing_learner(call=2 + 5 + 3))  # two to compile, five of the first epoch
    lenet = make_lenet(dataset)
    seen = []
    with pytest.raises(StepFailed, match=r"^epoch 2, minibatch 3 of 5 failed: MemoryError: out of memory$") as caught:
        train(lenet, dataset, on_epoch=lambda _: seen.append(lenet.get_values()), **SETTINGS)
    assert caught.value.epoch == 1
    assert same_values(lenet.get_values(), seen[0])
    assert same_values(caught.value.parameters, seen[0])


def test_a_step_that_fails_in_the_first_epoch_leaves_what_was_learnt(dataset, monkeypatch):
    monkeypatch.setattr(sessions, "Learner", failing_learner(call=2 + 3))
    lenet = make_lenet(dataset)
    before = lenet.get_values()
    with pytest.raises(StepFailed) as caught:
        train(lenet, dataset, **SETTINGS)
    assert (caught.value.epoch, caught.value.parameters) == (None, {})
    assert not same_values(lenet.get_values(), before)


def test_a_device_that_takes_no_parameters_any_more_hides_no_failure(dataset, monkeypatch):
    monkeypatch.setattr(sessions, "Learner", failing_learner(call=2 + 5 + 1))
    lenet = make_lenet(dataset)

    def refuse(values):
        raise OSError("the device is gone")

    monkeypatch.setattr(lenet, "set_values", refuse)
    with pytest.raises(StepFailed, match="out of memory") as caught:
        train(lenet, dataset, **SETTINGS)
    assert set(caught.value.parameters) == set(lenet.parameters)


def test_an_error_of_a_callback_stays_what_it_is(dataset):
    def fail(report):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$") as caught:
        train(make_lenet(dataset), dataset, on_batch=fail, **SETTINGS)
    assert not isinstance(caught.value, StepFailed)
