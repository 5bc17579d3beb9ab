"""Trained networks as files: parameters, and what is needed to use them on an image.

A file is an uncompressed ``.npz`` of these arrays, which any NumPy reads:

    format                  'pytensor-convnet network'
    format_version          1
    model                   the network's name among `models.MODELS`
    image_shape             channels, rows, columns
    class_names             what each output stands for
    mean, deviation         the `Normalisation`, (channels,) each
    parameters/NAME         each parameter

Files come from strangers. Nothing is unpickled, and no array is read before its name, dtype and shape are what this
network has, so that a file can neither run code nor ask for more memory than its own size.
"""

import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pytensor_convnet.models import MODELS, Classifier, Normalisation

FORMAT = "pytensor-convnet network"
FORMAT_VERSION = 1
PARAMETERS = "parameters/"

DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SystemError,
    ValueError,
    struct.error,
)
"""What zipfile and NumPy raise when bytes are not as they were written."""


class CorruptCheckpoint(ValueError):
    """A file does not hold a trained network, or not a whole one."""


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


def save(path: Path | str, model: Classifier, class_names: Sequence[str]) -> None:
    """Write a trained network to a file.

    The file appears whole or not at all: it is written under another name beside ``path`` and then renamed.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    model : Classifier
    class_names : sequence of str
        One for each class.

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
    arrays |= {PARAMETERS + name: value for name, value in model.get_values().items()}
    with _replacing(Path(path)) as file:
        np.savez(file, **arrays)


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
    path = Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _Reader(path, archive).checkpoint()
        except CorruptCheckpoint:
            raise
        except DAMAGE as error:
            raise CorruptCheckpoint(f"{path}: expected a trained network (.npz), found it damaged: {error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` once all is written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power failure could leave the new name on no content
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class _Reader:
    """Reads a file's arrays, each only once it is known to be what it must be."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self.archive = archive
        self.size = path.stat().st_size
        self.members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}

    def checkpoint(self) -> Checkpoint:
        """The network that the file holds."""
        if "format" not in self.members or self.text("format") != FORMAT:
            raise self.corrupt("a trained network", "another .npz file")
        version = self.array("format_version", np.dtype(np.int64), ()).item()
        if version != FORMAT_VERSION:
            raise self.corrupt(f"format version {FORMAT_VERSION}", f"{version}; another pytensor-convnet wrote it")
        name = self.text("model")
        if name not in MODELS:
            raise self.corrupt(f"a network among {', '.join(MODELS)}", repr(name))
        image_shape = tuple(self.array("image_shape", np.dtype(np.int64), (3,)).tolist())
        class_names = self.class_names()
        try:
            shapes = MODELS[name].parameter_shapes(image_shape, len(class_names))
        except ValueError as error:
            raise CorruptCheckpoint(f"{self.path}: {error}") from error
        normalisation = Normalisation(self.floats("mean", image_shape[:1]), self.floats("deviation", image_shape[:1]))
        if (normalisation.deviation <= 0).any():
            raise self.corrupt("positive deviations", str(normalisation.deviation.min()))
        values = {name: self.floats(PARAMETERS + name, shape) for name, shape in shapes.items()}
        model = MODELS[name](np.random.default_rng(0), image_shape, len(class_names), normalisation)
        model.set_values(values)
        return Checkpoint(model, class_names)

    def corrupt(self, expected: str, found: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path}: expected {expected}, found {found}")

    def class_names(self) -> tuple[str, ...]:
        """At least two, and fit to be printed: no escape sequences for the terminal."""
        names = self.array("class_names", np.dtype(np.str_), (None,)).tolist()
        if len(names) < 2 or not all(name.isprintable() for name in names):
            raise self.corrupt("class_names to be two or more printable names", ascii(names[:3]))
        return tuple(names)

    def text(self, name: str) -> str:
        return self.array(name, np.dtype(np.str_), ()).item()

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self.array(name, np.dtype(np.float32), shape)
        if not np.isfinite(array).all():
            raise self.corrupt(f"{name} to be finite", "NaN or infinity")
        return array

    def array(self, name: str, dtype: np.dtype, shape: tuple[int | None, ...]) -> np.ndarray:
        """The array ``name``, which must have this dtype (strings may be of any length) and shape (None is any)."""
        member = self.members.get(name)
        if member is None:
            raise self.corrupt(f"an array {name}", "none")
        # Stored as it is, an array is no larger than the file; compressed, it could be a thousand times as large.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > self.size:
            raise self.corrupt(f"{name} uncompressed", "it compressed")
        with self.archive.open(member) as file:
            self.check_header(name, file, member.file_size, dtype, shape)
        with self.archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def check_header(
        self, name: str, file: IO[bytes], size: int, dtype: np.dtype, shape: tuple[int | None, ...]
    ) -> None:
        """Raise unless the array that ``file`` begins with is of this dtype and shape, and fills the file."""
        if np.lib.format.read_magic(file) != (1, 0):
            raise self.corrupt(f"{name} in NumPy's format 1.0", "another")
        found_shape, _, found_dtype = np.lib.format.read_array_header_1_0(file)
        right_dtype = found_dtype.kind == "U" if dtype.kind == "U" else found_dtype == dtype
        right_shape = len(found_shape) == len(shape) and all(s in (None, f) for s, f in zip(shape, found_shape))
        if not (right_dtype and right_shape):
            expected = f"{name} to be {dtype.name} of shape {shape}"
            raise self.corrupt(expected, f"{found_dtype.name} of shape {found_shape}")
        content = np.prod(found_shape, dtype=object) * found_dtype.itemsize
        if content != size - file.tell():
            raise self.corrupt(f"{content} bytes of {name}", f"{size - file.tell()}")
