"""Training: that it learns, keeps the best parameters, counts right, and refuses what cannot work."""

import math
import signal
import threading

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

from pytensor_convnet import conv2d, max_pool_2d, training
from pytensor_convnet.datasets import Dataset
from pytensor_convnet.history import Score
from pytensor_convnet.learning import SharedImages, evaluate, momentum_updates
from pytensor_convnet.models import Lenet
from pytensor_convnet.training import Diverged, InvalidSetting, train

QUICK = Mode(linker="py", optimizer="fast_compile")
SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "momentum": 0.9, "mode": QUICK}


def made_up_dataset(number=60, seed=0, noise=0.2):
    """Noisy images with one bright bar: its position is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(number) % 3).astype("int32")
    images = rng.uniform(0, noise, (number, 1, 16, 16))
    for image, label in zip(images, labels):
        image[0, :, 5 * label : 5 * label + 5] += 0.7
    images = images.astype("float32")
    half = number * 2 // 3
    return Dataset("bars", images[:half], labels[:half], images[half:], labels[half:], ("left", "middle", "right"))


@pytest.fixture(scope="module")
def dataset():
    return made_up_dataset()


def make_lenet(dataset, seed=0):
    return Lenet(np.random.default_rng(seed), dataset.image_shape, dataset.number_of_classes)


def same_values(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


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


def test_steps_are_those_of_momentum_written_in_numpy():
    position = pytensor.shared(np.float32(3))
    rate, momentum = pt.fscalars("rate", "momentum")
    gradient = pytensor.grad(position**2, position)
    updates = momentum_updates({"x": position}, {"x": gradient}, rate, momentum)
    step = pytensor.function([rate, momentum], updates=updates, mode=QUICK, allow_input_downcast=True)
    x, velocity = 3.0, 0.0
    for _ in range(5):
        step(0.1, 0.9)
        velocity = 0.9 * velocity - 0.1 * 2 * x
        x += velocity
        assert position.get_value() == pytest.approx(x, rel=1e-5)


def test_the_call_that_compiles_changes_nothing(dataset):
    lenet = make_lenet(dataset)
    before = lenet.get_values()

    def stop(seconds):
        assert seconds > 0
        assert same_values(before, lenet.get_values())
        raise StopIteration

    with pytest.raises(StopIteration):
        train(lenet, dataset, on_compiled=stop, **SETTINGS)


def test_every_image_is_learnt_from_once_an_epoch_in_an_order_that_changes(dataset):
    data = SharedImages(dataset.train_images, np.arange(40))
    data.order.set_value(np.random.default_rng(0).permutation(40)[:37])
    assert data.number_of_batches(8) == 5
    index = pt.lscalar()
    labels = pytensor.function([index], data.minibatch(index, 8)[1], mode=QUICK)
    batches = [labels(batch) for batch in range(5)]
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 5]
    assert np.concatenate(batches).tolist() == data.order.get_value().tolist()


def test_an_image_weighs_the_same_in_the_smaller_last_minibatch(dataset):
    steps = []
    for batch, images in [(0, dataset.train_images[[5, 6, 7]]), (1, dataset.train_images[[0, 1, 2, 3, 5, 6, 7]])]:
        lenet = make_lenet(dataset)
        lenet.set_values(lenet.get_values() | {"softmax_weights": np.eye(500, 3, dtype="float32")})
        before = lenet.get_values()["softmax_biases"]
        data = SharedImages(images, np.zeros(len(images)))
        training.training_function(lenet, data, batch_size=4, mode=QUICK)(batch, 0.1, 0)
        steps.append(lenet.get_values()["softmax_biases"] - before)
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)
    full = make_lenet(dataset)
    full.set_values(full.get_values() | {"softmax_weights": np.eye(500, 3, dtype="float32")})
    data = SharedImages(dataset.train_images[[5, 6, 7]], np.zeros(3))
    training.training_function(full, data, batch_size=3, mode=QUICK)(0, 0.1, 0)
    np.testing.assert_allclose(steps[0], full.get_values()["softmax_biases"] * 3 / 4, rtol=1e-5)


def test_reports_count_epochs_batches_and_images(dataset):
    batches, epochs = [], []
    train(make_lenet(dataset), dataset, on_batch=batches.append, on_epoch=epochs.append, **SETTINGS | {"epochs": 2})
    assert [(b.epoch, b.batch) for b in batches] == [(epoch, batch) for epoch in (1, 2) for batch in range(1, 6)]
    assert all((b.epochs, b.batches) == (2, 5) for b in batches)
    assert batches[0].loss == pytest.approx(math.log(3), rel=1e-5)
    assert [e.loss for e in epochs] == [batches[4].loss, batches[9].loss]
    assert epochs[0].images_per_second == pytest.approx(36 / epochs[0].seconds)


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
    monkeypatch.setattr(training, "score", lambda *_: Score(1.0, next(accuracies)))
    history = train(lenet, dataset, on_epoch=lambda _: seen.append(lenet.get_values()), **SETTINGS)
    assert history.best_epoch == 2
    assert same_values(lenet.get_values(), seen[1])
    assert not same_values(seen[1], seen[2])


def test_of_epochs_as_accurate_the_one_of_least_loss_is_kept(dataset, monkeypatch):
    losses = iter([0.5, 0.3, 0.4, 0, 0, 0])
    monkeypatch.setattr(training, "score", lambda *_: Score(next(losses), 0.9))
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
        Diverged, match=r"loss became nan in epoch 2, minibatch 1 of 5.*lower learning_rate \(it is 0.02\)"
    ):
        train(lenet, dataset, on_epoch=poison, **SETTINGS)
    assert same_values(lenet.get_values(), seen[0])


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


def test_it_trains_in_another_thread_than_the_main_one(dataset):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(train(make_lenet(dataset), dataset, **SETTINGS)))
    thread.start()
    thread.join()
    assert len(histories[0].epochs) == 3


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "epochs must be a positive integer, got 0"),
        ("epochs", 1.5, "epochs must be a positive integer, got 1.5"),
        ("batch_size", -3, "batch_size must be a positive integer, got -3"),
        ("batch_size", 37, "batch_size must be at most the number of images to learn from, got 37 for 36 images"),
        ("learning_rate", 0, "learning_rate must be a positive number, got 0"),
        ("learning_rate", -0.1, "learning_rate must be a positive number"),
        ("learning_rate", math.nan, "learning_rate must be a positive number, got nan"),
        ("learning_rate", math.inf, "learning_rate must be a positive number, got inf"),
        ("momentum", 1, "momentum must be at least 0 and below 1, got 1"),
        ("momentum", -0.5, "momentum must be at least 0"),
        ("mode", "FASTEST", "mode must be one of .*FAST_COMPILE.*NUMBA.*got 'FASTEST'"),
        ("validation_fraction", 0, "validation_fraction must hold out some of the 40 training images"),
        ("validation_fraction", 1, "validation_fraction must hold out some .* it holds out 40"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(dataset, setting, value, message):
    with pytest.raises(InvalidSetting, match=message):
        train(make_lenet(dataset), dataset, **SETTINGS | {setting: value})


def test_a_network_for_other_images_is_refused(dataset):
    lenet = Lenet(np.random.default_rng(0), (1, 28, 28), 3)
    with pytest.raises(InvalidSetting, match=r"model must be for 3 classes of images \(1, 16, 16\)"):
        train(lenet, dataset, **SETTINGS)


def test_a_batch_of_all_images_is_allowed(dataset):
    history = train(make_lenet(dataset), dataset, **SETTINGS | {"batch_size": 36, "epochs": 1})
    assert len(history.epochs) == 1


def test_a_program_written_for_theano_runs(dataset):
    """The tutorial by hand: shared data, givens, updates, and `grad` with known_grads for the softmax."""
    rng = np.random.default_rng(0)
    images, labels = pt.tensor4("images", dtype="float32"), pt.ivector("labels")
    all_images = pytensor.shared(dataset.train_images, borrow=True)
    all_labels = pytensor.shared(dataset.train_labels, borrow=True)
    filters = pytensor.shared(rng.uniform(-0.2, 0.2, (4, 1, 5, 5)).astype("float32"))
    weights = pytensor.shared(np.zeros((4 * 4 * 4, 3), "float32"))
    maps = conv2d(input=images, filters=filters, filter_shape=(4, 1, 5, 5), image_shape=(None, 1, 16, 16))
    pooled = max_pool_2d(input=maps, ds=(3, 3), ignore_border=True)
    scores = pt.dot(pt.tanh(pooled).flatten(2), weights)
    probabilities = pt.special.softmax(scores, axis=1)
    one_hot = pt.eq(labels[:, None], pt.arange(3)[None, :])
    score_gradients = (probabilities - one_hot) / np.float32(8)
    parameters = [filters, weights]
    gradients = pytensor.grad(None, parameters, known_grads={scores: score_gradients.astype("float32")})
    index = pt.lscalar()
    step = pytensor.function(
        [index],
        -pt.log(probabilities)[pt.arange(labels.shape[0]), labels].mean(),
        updates=[(p, p - np.float32(0.5) * g) for p, g in zip(parameters, gradients)],
        givens={
            images: all_images[index * 8 : (index + 1) * 8],
            labels: all_labels[index * 8 : (index + 1) * 8],
        },
        mode=QUICK,
    )
    losses = [np.mean([step(batch) for batch in range(5)]) for _ in range(5)]
    assert losses[-1] < 0.5 * losses[0]


def test_moved_copies_follow_the_images_themselves():
    images = np.random.default_rng(0).random((4, 1, 16, 16), dtype="float32")
    copies = training.moved_copies(images, 2)
    assert copies.shape == (20, 1, 16, 16)
    np.testing.assert_array_equal(copies[:4], images)
    np.testing.assert_array_equal(copies[4:8, :, :-2], images[:, :, 2:])
    np.testing.assert_array_equal(copies[12:16, :, :, :-2], images[:, :, :, 2:])


def test_it_learns_from_moved_copies(dataset):
    seen = []
    history = train(make_lenet(dataset), dataset, **SETTINGS, shift=1, on_batch=seen.append)
    held_out = round(training.VALIDATION_FRACTION * len(dataset.train_images))
    images_an_epoch = 5 * (len(dataset.train_images) - held_out)
    assert seen[-1].batches == math.ceil(images_an_epoch / SETTINGS["batch_size"])
    assert history.test.accuracy > 0.9


@pytest.mark.parametrize("shift", [-1, 16, 1.5, True])
def test_a_wrong_shift_is_refused(dataset, shift):
    with pytest.raises(InvalidSetting, match="shift must be an integer"):
        train(make_lenet(dataset), dataset, **SETTINGS, shift=shift)
