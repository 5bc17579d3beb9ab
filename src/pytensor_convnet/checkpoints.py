"""Trained networks as files: parameters, and what is needed to use them on an image.

A file is an uncompressed ``.npz`` of these arrays, which any NumPy reads:

    format                  'pytensor-convnet network'
    format_version          1
    model                   the network's name among `models.MODELS`
    image_shape             channels, rows, columns
    class_names             what each output stands for
    mean, deviation         the `Normalisation`, (channels,) each
    parameters/NAME         each parameter

Further arrays are ignored; `training_states` has some.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytensor_convnet.array_files import ArrayReader, CorruptCheckpoint, reading, write_arrays
from pytensor_convnet.models import MODELS, Classifier, Normalisation

FORMAT = "pytensor-convnet network"
FORMAT_VERSION = 1
PARAMETERS = "parameters/"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and the names of its classes.

    Attributes
    ----------
    model : Classifier
    class_names : tuple of str
    """

    model: Classifier
    class_names: tuple[str, ...]


def save(
    path: Path | str, model: Classifier, class_names: Sequence[str], values: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write a trained network to a file, which appears whole or not at all.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    model : Classifier
    class_names : sequence of str
        One for each class.
    values : mapping of str to float32 array, optional
        The parameters, by default those that the network has.

    Raises
    ------
    ValueError
        The number of class names is not the number of classes.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pytensor_convnet.models import Lenet
    >>> lenet = Lenet(np.random.default_rng(0), image_shape=(1, 28, 28), number_of_classes=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "pets.npz"), lenet, ["cat", "dog"])
    ...     load(Path(folder, "pets.npz")).class_names
    ('cat', 'dog')
    """
    write_arrays(path, network_arrays(model, class_names, model.get_values() if values is None else values))


def load(path: Path | str) -> Checkpoint:
    """Read a trained network from a file.

    Parameters
    ----------
    path : path

    Returns
    -------
    Checkpoint

    Raises
    ------
    CorruptCheckpoint
        The file is not one that `save` wrote; the message names it and says what is wrong.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> load("no/such/file.npz")
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: 'no/such/file.npz'
    """
    with reading(path) as reader:
        return read_network(reader)


def network_arrays(
    model: Classifier, class_names: Sequence[str], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of a file that holds ``model`` with the parameters ``values``."""
    if len(class_names) != model.number_of_classes:
        raise ValueError(f"class_names must be {model.number_of_classes} names, got {len(class_names)}")
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "format_version": np.array(FORMAT_VERSION, np.int64),
        "model": np.array(model.name),
        "image_shape": np.array(model.image_shape, np.int64),
        "class_names": np.array(class_names, np.str_),
        "mean": model.normalisation.mean,
        "deviation": model.normalisation.deviation,
    }
    return arrays | {PARAMETERS + name: value for name, value in values.items()}


def read_network(reader: ArrayReader) -> Checkpoint:
    """The network that a file holds."""
    if "format" not in reader.members or reader.text("format") != FORMAT:
        raise reader.corrupt("a trained network", "another .npz file")
    version = reader.integer("format_version")
    if version != FORMAT_VERSION:
        raise reader.corrupt(f"format version {FORMAT_VERSION}", f"{version}; another pytensor-convnet wrote it")
    name = reader.text("model")
    if name not in MODELS:
        raise reader.corrupt(f"a network among {', '.join(MODELS)}", repr(name))
    image_shape = tuple(reader.array("image_shape", np.dtype(np.int64), (3,)).tolist())
    class_names = _class_names(reader)
    try:
        shapes = MODELS[name].parameter_shapes(image_shape, len(class_names))
    except ValueError as error:
        raise CorruptCheckpoint(f"{reader.path}: {error}") from error
    normalisation = Normalisation(reader.floats("mean", image_shape[:1]), reader.floats("deviation", image_shape[:1]))
    if (normalisation.deviation <= 0).any():
        raise reader.corrupt("positive deviations", str(normalisation.deviation.min()))
    values = {name: reader.floats(PARAMETERS + name, shape) for name, shape in shapes.items()}
    model = MODELS[name](np.random.default_rng(0), image_shape, len(class_names), normalisation)
    model.set_values(values)
    return Checkpoint(model, class_names)


def _class_names(reader: ArrayReader) -> tuple[str, ...]:
    """At least two, and fit to be printed: no escape sequences for the terminal."""
    names = reader.array("class_names", np.dtype(np.str_), (None,)).tolist()
    if len(names) < 2 or not all(name.isprintable() for name in names):
        raise reader.corrupt("class_names to be two or more printable names", ascii(names[:3]))
    return tuple(names)
