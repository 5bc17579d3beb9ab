"""What every data set has in common: its arrays, the search for its files, and the two ways they fail.

Images are bc01 ``(batch, channels, rows, columns)``, float32 within [0, 1]; labels are int32 ``(batch,)``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FOLDER_VARIABLE = "PYTENSOR_CONVNET_DATA"
"""The environment variable that names the folder of data sets when no folder is given."""

LARGEST_FILE = 100 * 2**20
"""No file of these data sets holds more bytes, unpacked: MNIST's largest has 47 MB, CIFAR-10's 31 MB."""

Layout = Mapping[str, Sequence[str]]
"""The files of a data set: what each is called, and the names under which it is found."""


class MissingData(FileNotFoundError):
    """The files of a data set are not where they were looked for."""


class CorruptData(ValueError):
    """A file of a data set is not what its format says."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, some to learn from and some to be judged by.

    Attributes
    ----------
    name : str
        What `load` calls it.
    train_images, test_images : float32 array, (batch, channels, rows, columns)
        Pixels, scaled to [0, 1].
    train_labels, test_labels : int32 array, (batch,)
        The class of each image, counted from 0.
    class_names : tuple of str
        What each label stands for.

    Examples
    --------
    >>> import numpy as np
    >>> images, labels = np.zeros((4, 1, 28, 28), "float32"), np.array([0, 1, 1, 0], "int32")
    >>> pairs = Dataset("pairs", images, labels, images, labels, ("cat", "dog"))
    >>> pairs
    Dataset(name='pairs', class_names=('cat', 'dog'))
    >>> pairs.image_shape, pairs.number_of_classes
    ((1, 28, 28), 2)
    """

    name: str
    train_images: np.ndarray = field(repr=False)
    train_labels: np.ndarray = field(repr=False)
    test_images: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        check_labelled_images(self.name, "train", self.train_images, self.train_labels, self.number_of_classes)
        check_labelled_images(self.name, "test", self.test_images, self.test_labels, self.number_of_classes)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"{self.name}: train_images and test_images must agree in (channels, rows, columns), "
                f"got {self.train_images.shape[1:]} and {self.test_images.shape[1:]}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, rows, columns)`` of each image."""
        _, channels, rows, columns = self.train_images.shape
        return channels, rows, columns

    @property
    def number_of_classes(self) -> int:
        """How many labels there are: they run from 0 to one less."""
        return len(self.class_names)


def check_labelled_images(name: str, part: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    """Raise a ValueError unless ``images`` and ``labels`` are what `Dataset` promises.

    Examples
    --------
    >>> import numpy as np
    >>> check_labelled_images("pairs", "test", np.zeros((4, 28, 28), "float32"), np.zeros(4, "int32"), 2)
    Traceback (most recent call last):
    ...
    ValueError: pairs: test_images must be (batch, channels, rows, columns), got shape (4, 28, 28)
    """
    if images.ndim != 4:
        raise ValueError(f"{name}: {part}_images must be (batch, channels, rows, columns), got shape {images.shape}")
    if labels.ndim != 1:
        raise ValueError(f"{name}: {part}_labels must be (batch,), got shape {labels.shape}")
    if images.size == 0:
        raise ValueError(f"{name}: {part}_images must not be empty, got shape {images.shape}")
    if len(images) != len(labels):
        raise ValueError(
            f"{name}: {part}_images and {part}_labels must have one length, got {len(images)} and {len(labels)}"
        )
    if images.dtype != np.float32:
        raise ValueError(f"{name}: {part}_images must be float32, got {images.dtype}")
    if labels.dtype != np.int32:
        raise ValueError(f"{name}: {part}_labels must be int32, got {labels.dtype}")
    if not (images.min() >= 0 and images.max() <= 1):  # so put, NaN is refused too
        raise ValueError(f"{name}: {part}_images must lie within [0, 1], got {images.min():g} to {images.max():g}")
    if not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"{name}: {part}_labels must lie within 0 to {classes - 1} for {classes} classes, "
            f"got {labels.min()} to {labels.max()}"
        )


def scale(images: np.ndarray) -> np.ndarray:
    """Bytes 0 to 255 as float32 from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> scale(np.array([0, 51, 255], "uint8"))
    array([0. , 0.2, 1. ], dtype=float32)
    """
    return np.divide(images, 255, dtype=np.float32)


def check_labels(path: Path, labels: np.ndarray, classes: int) -> np.ndarray:
    """``labels`` of the file ``path`` as int32, once all are known to be below ``classes``."""
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        raise CorruptData(
            f"{path}: expected labels from 0 to {classes - 1}, found {labels[outside[0]]} at position {outside[0]}"
        )
    return labels.astype(np.int32)


def read_file(path: Path) -> bytes:
    """All of a file, which must not hold more than `LARGEST_FILE` bytes."""
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise CorruptData(f"{path}: expected at most {LARGEST_FILE} bytes, found more")
    return content


def data_folders(folder: Path | str | None) -> list[Path]:
    """The folders in which data sets are looked for: the one given, or else the customary ones.

    Examples
    --------
    >>> [str(folder) for folder in data_folders("somewhere")]
    ['somewhere']
    """
    if folder is not None:
        return [Path(os.path.expanduser(folder))]
    customary = [
        os.environ.get(FOLDER_VARIABLE),
        "~/.cache/pytensor-convnet",
        "/usr/share/datasets",  # where Debian's packages of data sets install
    ]
    return [Path(os.path.expanduser(place)) for place in customary if place]


def places_within(folders: Sequence[Path], subfolders: Sequence[str]) -> list[Path]:
    """Where to look in ``folders``: first in their ``subfolders``, then in themselves; a missing one once.

    Named subfolders go first because they say which data set they hold and the folder itself does not.

    Examples
    --------
    >>> [str(place) for place in places_within([Path("no/where")], ["mnist", "mnist/raw"])]
    ['no/where']
    """
    return [
        folder / subfolder for folder in folders for subfolder in ([*subfolders, "."] if folder.is_dir() else ["."])
    ]


def find_files(name: str, layouts: Sequence[Layout], places: Sequence[Path], where_from: str) -> dict[str, Path]:
    """The files of one of ``layouts``, all from the first of ``places`` that has them all.

    Parameters
    ----------
    name : str
        The data set's name, for the error.
    layouts : sequence of mappings
        Complete sets of files, any of which will do.
    places : sequence of Path
        Folders. Files of different folders are never mixed: they may be of different data sets.
    where_from : str
        Where the data set is published, for the error.

    Raises
    ------
    MissingData
        No place has them all.

    Examples
    --------
    >>> find_files("pairs", [{"pairs.bin": ["pairs.bin"]}], [Path("no/where")], "your own camera")
    Traceback (most recent call last):
    ...
    pytensor_convnet.datasets.base.MissingData: the data set pairs was not found.
    Wanted, together in one folder: pairs.bin
    Looked in:
      no/where (no such folder)
    Published at: your own camera
    Name their folder with --data-folder DIR or in the environment variable PYTENSOR_CONVNET_DATA.
    """
    report = []
    for place in places:
        lacks = []
        for layout in layouts:
            found = {file: path for file, names in layout.items() if (path := _first_file(place, names))}
            if len(found) == len(layout):
                return found
            lacks.append([file for file in layout if file not in found])
        report.append(f"  {place} ({_what_is_lacking(place, layouts, lacks)})")
    wanted = "\n  or: ".join(", ".join(layout) for layout in layouts)
    raise MissingData(
        f"the data set {name} was not found.\n"
        f"Wanted, together in one folder: {wanted}\n"
        "Looked in:\n" + "\n".join(report) + "\n"
        f"Published at: {where_from}\n"
        f"Name their folder with --data-folder DIR or in the environment variable {FOLDER_VARIABLE}."
    )


def _first_file(place: Path, names: Sequence[str]) -> Path | None:
    return next((place / name for name in names if (place / name).is_file()), None)


def _what_is_lacking(place: Path, layouts: Sequence[Layout], lacks: Sequence[list[str]]) -> str:
    """Why ``place`` will not do, judged by the layout of which it has most."""
    if not place.is_dir():
        return "no such folder"
    if all(len(lack) == len(layout) for layout, lack in zip(layouts, lacks)):
        return "none of them"
    fewest = min(lacks, key=len)
    return "lacks " + ", ".join(fewest)
