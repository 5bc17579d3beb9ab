"""What a training is told, what must hold of it, and whether two trainings were told the same."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from pytensor.compile.mode import get_mode, predefined_modes

from pytensor_convnet.datasets import Dataset
from pytensor_convnet.learning import ModeName
from pytensor_convnet.models import Classifier
from pytensor_convnet.processes import ALONE, Processes


class InvalidSetting(ValueError):
    """An argument of `train` that cannot work."""


@dataclass(frozen=True)
class Settings:
    """What decides, with the network and the images, what a training learns; `train` explains each.

    Examples
    --------
    >>> Settings(batch_size=50, learning_rate=0.1, momentum=0.9, seed=0, shift=0, validation_fraction=0.1).held_out(60)
    6
    """

    batch_size: int
    learning_rate: float
    momentum: float
    seed: int
    shift: int
    validation_fraction: float

    def held_out(self, images: int) -> int:
        """How many of so many images are held out for validation."""
        return round(self.validation_fraction * images)

    def record(self, model: Classifier, dataset: Dataset) -> dict[str, str | int | float]:
        """These settings, the network's name and what tells the images to learn from: two equal records, one training.

        Parameters
        ----------
        model : Classifier
        dataset : Dataset

        Returns
        -------
        dict of str to str, int or float
        """
        values = asdict(self)
        integers = {name: int(values[name]) for name in ("batch_size", "seed", "shift")}
        floats = {name: float(values[name]) for name in ("learning_rate", "momentum", "validation_fraction")}
        return {"model": model.name, "data": dataset.name, "images": images_digest(dataset)} | integers | floats


def images_digest(dataset: Dataset) -> str:
    """A hash of the images to learn from and their labels, in hexadecimal."""
    digest = hashlib.sha256(str(dataset.train_images.shape).encode())
    for array in (dataset.train_images, dataset.train_labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_same(found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raise an `InvalidSetting` that names what differs between the record of a training and that of its resumption.

    Parameters
    ----------
    found, wanted : mapping
        Of the training to resume, and of the one that is to resume it; as `Settings.record` gives them.

    Examples
    --------
    >>> check_same({"seed": 0, "momentum": 0.5}, {"seed": 1, "momentum": 0.5})
    Traceback (most recent call last):
    ...
    pytensor_convnet.settings.InvalidSetting: a training is resumed with its own settings and data: seed was 0 and is 1
    """
    differences = [
        f"{name} was {found.get(name)!a} and is {wanted.get(name)!a}"
        for name in dict.fromkeys((*wanted, *found))
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise InvalidSetting(f"a training is resumed with its own settings and data: {'; '.join(differences)}")


def check_settings(
    settings: Settings,
    model: Classifier,
    dataset: Dataset,
    epochs: int,
    mode: ModeName,
    finished: int = 0,
    processes: Processes = ALONE,
) -> None:
    """Raise an `InvalidSetting` that names the first argument of `train` that cannot work.

    Parameters
    ----------
    settings : Settings
    model : Classifier
    dataset : Dataset
    epochs : int
    mode : str, Mode or None
    finished : int
        How many epochs the training to resume has finished.
    processes : Processes
        Those that share each minibatch.

    Examples
    --------
    >>> check_settings(Settings(50, 0.1, 0.9, 0, 0, 0.1), None, None, epochs=0, mode=None)
    Traceback (most recent call last):
    ...
    pytensor_convnet.settings.InvalidSetting: epochs must be a positive integer, got 0
    """
    for name, count in {"epochs": epochs, "batch_size": settings.batch_size}.items():
        if not _is_integer(count) or count < 1:
            raise InvalidSetting(f"{name} must be a positive integer, got {count!r}")
    try:
        processes.batch_share(settings.batch_size)
    except ValueError as error:
        raise InvalidSetting(str(error)) from error
    if epochs < finished:
        raise InvalidSetting(f"epochs must be at least the {finished} that are finished, got {epochs}")
    if not _is_integer(settings.seed) or settings.seed < 0:
        raise InvalidSetting(f"seed must be an integer of at least 0, got {settings.seed!r}")
    if not 0 < settings.learning_rate < math.inf:
        raise InvalidSetting(f"learning_rate must be a positive number, got {settings.learning_rate!r}")
    if not 0 <= settings.momentum < 1:
        raise InvalidSetting(f"momentum must be at least 0 and below 1, got {settings.momentum!r}")
    rows, columns = dataset.image_shape[1:]
    if not _is_integer(settings.shift) or not 0 <= settings.shift < min(rows, columns):
        raise InvalidSetting(
            f"shift must be an integer from 0 to below the {rows} x {columns} pixels, got {settings.shift!r}"
        )
    check_mode(mode)
    _check_parts(settings, len(dataset.train_images))
    described = (dataset.image_shape, dataset.number_of_classes)
    if (model.image_shape, model.number_of_classes) != described:
        raise InvalidSetting(
            f"model must be for {dataset.number_of_classes} classes of images {dataset.image_shape} as dataset is, "
            f"got one for {model.number_of_classes} classes of images {model.image_shape}"
        )


def check_mode(mode: ModeName) -> None:
    """Raise an `InvalidSetting` unless PyTensor knows the mode.

    Parameters
    ----------
    mode : str, Mode or None

    Examples
    --------
    >>> check_mode("FAST_RUN")
    >>> check_mode("FASTEST")
    Traceback (most recent call last):
    ...
    pytensor_convnet.settings.InvalidSetting: mode must be one of C, ..., got 'FASTEST'
    """
    try:
        get_mode(mode)
    except ValueError as error:
        known = ", ".join(sorted({*predefined_modes, "FAST_RUN"}))
        raise InvalidSetting(f"mode must be one of {known}, got {mode!r}") from error


def _check_parts(settings: Settings, images: int) -> None:
    """Some images must be left to learn from, and at least a minibatch."""
    fraction = settings.validation_fraction
    if not 0 <= fraction <= 1 or settings.held_out(images) >= images:
        raise InvalidSetting(
            f"validation_fraction must be at least 0 and leave some of the {images} training images to learn from, "
            f"got {fraction!r}"
        )
    held_out = settings.held_out(images)
    if settings.batch_size > images - held_out:
        raise InvalidSetting(
            f"batch_size must be at most the number of images to learn from, got {settings.batch_size} for "
            f"{images - held_out} images ({images} less the {held_out} held out for validation)"
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
