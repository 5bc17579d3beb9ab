"""Trainings as files: they come back as they were, serve as trained networks, and strange ones are refused."""

import json

import numpy as np
import pytest

from pytensor_convnet import checkpoints, training_states
from pytensor_convnet.checkpoints import CorruptCheckpoint
from pytensor_convnet.history import EpochReport, Score
from pytensor_convnet.models import Lenet
from pytensor_convnet.training_states import TrainingState

EPOCHS = [EpochReport(1, 0.5, Score(0.4, 0.75), 2.0, 100.0), EpochReport(2, 0.25, None, 3.0, 200.0)]


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    shapes = Lenet.parameter_shapes((1, 16, 16), 2)
    drawn = [{name: rng.random(shape, "float32") for name, shape in shapes.items()} for _ in range(3)]
    words = rng.integers(2**63, size=(2, 14), dtype="uint64")
    return TrainingState({"seed": 0, "momentum": 0.9, "data": "pets"}, EPOCHS, 1, *drawn, words)


@pytest.fixture
def saved(state, tmp_path):
    path = tmp_path / "training.npz"
    training_states.save(path, Lenet(np.random.default_rng(3), (1, 16, 16), 2), ["cat", "dog"], state)
    return path


def altered(path, **changes):
    """The file with arrays of the training replaced; None takes one away."""
    with np.load(path) as archive:
        arrays = dict(archive) | {f"training/{name}": value for name, value in changes.items()}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_a_training_comes_back_as_it_was(saved, state):
    loaded = training_states.load(saved)
    assert (loaded.settings, loaded.epochs, loaded.best_epoch) == (state.settings, state.epochs, 1)
    for name in ("best_parameters", "parameters", "velocities"):
        for parameter, value in getattr(state, name).items():
            np.testing.assert_array_equal(getattr(loaded, name)[parameter], value)
    np.testing.assert_array_equal(loaded.random_states, state.random_states)


def test_the_file_serves_as_the_network_of_the_best_epoch(saved, state):
    network = checkpoints.load(saved)
    assert network.class_names == ("cat", "dog")
    for name, value in state.best_parameters.items():
        np.testing.assert_array_equal(network.model.get_values()[name], value)


def test_a_trained_network_alone_is_no_training(tmp_path):
    checkpoints.save(tmp_path / "net.npz", Lenet(np.random.default_rng(3), (1, 16, 16), 2), ["cat", "dog"])
    with pytest.raises(CorruptCheckpoint, match=r"expected a training to resume, found only a trained network"):
        training_states.load(tmp_path / "net.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": np.array(2)}, "expected training version 1, found 2"),
        ({"settings": None}, "an array training/settings, found none"),
        ({"settings": np.array("{")}, "damaged"),
        ({"settings": np.array("[" * 100_000)}, "damaged"),
        ({"settings": np.array("[]")}, "settings to be names and values"),
        ({"settings": np.array(json.dumps({"seed": [0]}))}, "settings to be names and values"),
        ({"epochs": np.zeros((2, 4))}, r"epochs to be float64 of shape \(None, 5\)"),
        ({"epochs": np.zeros((0, 5))}, "best_epoch from 1 to 0, found 1"),
        ({"best_epoch": np.array(3)}, "best_epoch from 1 to 2, found 3"),
        ({"parameters/hidden_biases": np.zeros(5, "float32")}, "training/parameters/hidden_biases to be float32"),
        ({"velocities/hidden_biases": None}, "an array training/velocities/hidden_biases, found none"),
        ({"random_states": np.zeros((1, 6), "int64")}, "random_states to be uint64"),
        ({"random_states": np.array([{}], object)}, "random_states"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_name_and_reason(saved, changes, message):
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        training_states.load(altered(saved, **changes))
    assert str(saved) in str(caught.value)


def test_a_write_that_is_broken_off_leaves_the_epoch_before(saved, state, monkeypatch):
    before = saved.read_bytes()

    def break_off(file, **arrays):
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", break_off)
    with pytest.raises(KeyboardInterrupt):
        training_states.save(saved, Lenet(np.random.default_rng(3), (1, 16, 16), 2), ["cat", "dog"], state)
    assert saved.read_bytes() == before
