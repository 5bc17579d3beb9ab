"""Trainings as files: a trained network, and all that is needed to go on as if training had not stopped.

A file holds the arrays of `checkpoints`, with the best parameters so far, so that it serves wherever a trained network
does. Beside them it has

    training/version                1
    training/settings               the `Settings.record`, as JSON
    training/epochs                 (epochs, 5): loss, validation loss and accuracy (or NaN), seconds, images a second
    training/best_epoch             whose parameters the network has
    training/parameters/NAME        each parameter after the last epoch
    training/velocities/NAME        and its velocity
    training/random_states          (generators, 14): the states of the generators that random Ops draw from

The order of images is no part of it: it follows from the seed and the epoch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytensor_convnet.array_files import ArrayReader, reading, write_arrays
from pytensor_convnet.checkpoints import network_arrays, read_network
from pytensor_convnet.history import EpochReport, Score
from pytensor_convnet.models import Classifier
from pytensor_convnet.random_states import WORDS

VERSION = 1
PART = "training/"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A training after an epoch.

    Attributes
    ----------
    settings : mapping of str to str, int or float
        The `Settings.record` of the training.
    epochs : sequence of EpochReport
        One for each epoch that is finished.
    best_epoch : int
    best_parameters : mapping of str to float32 array
        Those of that epoch.
    parameters, velocities : mapping of str to float32 array
        After the last epoch.
    random_states : uint64 array, (generators, `random_states.WORDS`)
    """

    settings: Mapping[str, str | int | float]
    epochs: Sequence[EpochReport]
    best_epoch: int
    best_parameters: Mapping[str, np.ndarray]
    parameters: Mapping[str, np.ndarray]
    velocities: Mapping[str, np.ndarray]
    random_states: np.ndarray


def save(path: Path | str, model: Classifier, class_names: Sequence[str], state: TrainingState) -> None:
    """Write a training to a file, which appears whole or not at all.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    model : Classifier
        What is trained.
    class_names : sequence of str
        One for each class.
    state : TrainingState

    Raises
    ------
    OSError
        The file cannot be written.
    """
    arrays = {
        "version": np.array(VERSION, np.int64),
        "settings": np.array(json.dumps(dict(state.settings))),
        "epochs": np.array([_row(report) for report in state.epochs], np.float64),
        "best_epoch": np.array(state.best_epoch, np.int64),
        "random_states": state.random_states,
    }
    arrays |= {f"parameters/{name}": value for name, value in state.parameters.items()}
    arrays |= {f"velocities/{name}": value for name, value in state.velocities.items()}
    network = network_arrays(model, class_names, state.best_parameters)
    write_arrays(path, network | {PART + name: array for name, array in arrays.items()})


def load(path: Path | str) -> TrainingState:
    """Read a training from a file.

    Parameters
    ----------
    path : path

    Returns
    -------
    TrainingState

    Raises
    ------
    CorruptCheckpoint
        The file is not one that `save` wrote; the message names it and says what is wrong.
    OSError
        The file cannot be read.
    """
    with reading(path) as reader:
        network = read_network(reader).model
        if f"{PART}version" not in reader.members:
            raise reader.corrupt("a training to resume", "only a trained network")
        version = reader.integer(f"{PART}version")
        if version != VERSION:
            raise reader.corrupt(f"training version {VERSION}", f"{version}; another pytensor-convnet wrote it")
        best_parameters = network.get_values()
        epochs = _read_epochs(reader)
        best_epoch = reader.integer(f"{PART}best_epoch")
        if not 1 <= best_epoch <= len(epochs):
            raise reader.corrupt(f"best_epoch from 1 to {len(epochs)}", str(best_epoch))
        return TrainingState(
            _read_settings(reader),
            epochs,
            best_epoch,
            best_parameters,
            _read_like(reader, f"{PART}parameters/", best_parameters),
            _read_like(reader, f"{PART}velocities/", best_parameters),
            reader.array(f"{PART}random_states", np.dtype(np.uint64), (None, WORDS)),
        )


def _row(report: EpochReport) -> list[float]:
    """An epoch's report as numbers, its own number left out."""
    validation = report.validation or Score(np.nan, np.nan)
    return [report.loss, validation.loss, validation.accuracy, report.seconds, report.images_per_second]


def _read_epochs(reader: ArrayReader) -> list[EpochReport]:
    rows = reader.array(f"{PART}epochs", np.dtype(np.float64), (None, 5)).tolist()
    return [
        EpochReport(epoch, loss, None if np.isnan(accuracy) else Score(validation_loss, accuracy), seconds, speed)
        for epoch, (loss, validation_loss, accuracy, seconds, speed) in enumerate(rows, start=1)
    ]


def _read_settings(reader: ArrayReader) -> dict[str, str | int | float]:
    settings = json.loads(reader.text(f"{PART}settings"))
    if not isinstance(settings, dict) or not all(isinstance(v, str | int | float) for v in settings.values()):
        raise reader.corrupt("settings to be names and values", "something else")
    return settings


def _read_like(reader: ArrayReader, part: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An array for each of ``arrays``, of its name and shape."""
    return {name: reader.array(part + name, np.dtype(np.float32), array.shape) for name, array in arrays.items()}
