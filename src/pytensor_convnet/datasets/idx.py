"""MNIST and Fashion-MNIST: four files in the idx format, gzipped or not.

An idx file of bytes is ``00 00 08 d``, then d lengths as big-endian 32-bit integers, then the bytes in
row-major order. Both data sets use the same four file names, so a folder says nothing of which it holds:
named folders are looked in first, and the first labels are compared with those published.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from pytensor_convnet.datasets.base import (
    LARGEST_FILE,
    CorruptData,
    Dataset,
    check_labels,
    data_folders,
    find_files,
    places_within,
    scale,
)

IMAGE_LENGTH = 28

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
TORCHVISION_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
WHERE_FROM = {
    "mnist": "yann.lecun.com/exdb/mnist (gzipped or unpacked, both will do)",
    "fashion-mnist": "github.com/zalandoresearch/fashion-mnist (gzipped or unpacked, both will do), "
    "or Debian package dataset-fashion-mnist",
}
FIRST_LABELS = {
    "mnist": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
    "fashion-mnist": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
}
"""Of the training images as published: what tells the two data sets apart."""

LAYOUT = {
    f"{part}-{kind}-ubyte": [
        f"{part}-{kind}-ubyte",
        f"{part}-{kind}-ubyte.gz",
        f"{part}-{kind}-ubyte".replace("-idx", ".idx"),
        f"{part}-{kind}-ubyte.gz".replace("-idx", ".idx"),
    ]
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
}


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """MNIST or Fashion-MNIST from its four files.

    Parameters
    ----------
    name : {'mnist', 'fashion-mnist'}
    folder : path, optional
        Holds the files, in itself or in a folder called ``name``, ``name/raw``, ``MNIST/raw`` or
        ``FashionMNIST/raw``. By default PYTENSOR_CONVNET_DATA, ``~/.cache/pytensor-convnet`` and
        ``/usr/share/datasets`` are searched in the same way.

    Returns
    -------
    Dataset
        Images ``(batch, 1, 28, 28)``.

    Raises
    ------
    MissingData
        The files are in none of these places.
    CorruptData
        A file is not what it should be, or is the other data set's.

    Examples
    --------
    >>> load("mnist", "no/where")
    Traceback (most recent call last):
    ...
    pytensor_convnet.datasets.base.MissingData: the data set mnist was not found.
    ...
    """
    places = places_within(data_folders(folder), [name, f"{name}/raw", TORCHVISION_FOLDERS[name] + "/raw"])
    files = find_files(name, [LAYOUT], places, WHERE_FROM[name])
    train_images, train_labels = _read_part(files, "train")
    test_images, test_labels = _read_part(files, "t10k")
    for other, labels in FIRST_LABELS.items():
        if other != name and train_labels[: len(labels)].tolist() == labels:
            raise CorruptData(
                f"{files['train-labels-idx1-ubyte']}: expected the labels of {name}, found those of {other}; "
                f"keep the two data sets in folders called {name} and {other}"
            )
    return Dataset(name, train_images, train_labels, test_images, test_labels, CLASS_NAMES[name])


def _read_part(files: dict[str, Path], part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of the ``train`` or the ``t10k`` files."""
    images_path, labels_path = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (IMAGE_LENGTH, IMAGE_LENGTH):
        raise CorruptData(
            f"{images_path}: expected images of {IMAGE_LENGTH} x {IMAGE_LENGTH} pixels, "
            f"found {images.shape[1]} x {images.shape[2]}"
        )
    if len(images) != len(labels):
        raise CorruptData(
            f"{labels_path}: expected {len(images)} labels, one for each image of {images_path.name}, "
            f"found {len(labels)}"
        )
    if len(images) == 0:
        raise CorruptData(f"{images_path}: expected at least one image, found none")
    return scale(images[:, None]), check_labels(labels_path, labels, 10)


def read_idx(path: Path | str, dimensions: int) -> np.ndarray:
    """The bytes of an idx file, gzipped or not.

    Its header is not trusted: lengths that multiply to more than `LARGEST_FILE` are refused before anything
    is allocated, and no more is read, or unzipped, than the header declares and one byte.

    Parameters
    ----------
    path : path
        The content, not the name, tells whether it is gzipped: browsers unpack and leave the ``.gz``.
    dimensions : int
        How many the array must have.

    Returns
    -------
    uint8 array

    Raises
    ------
    CorruptData
        The file is not what its header says, or the header is not idx's.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([7, 2, 1]))
    ...     read_idx(path, 1)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    with path.open("rb") as file:
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        if not zipped:
            return _read_unzipped(path, file, dimensions)
        try:
            with gzip.GzipFile(fileobj=file) as unzipping:
                return _read_unzipped(path, unzipping, dimensions)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorruptData(f"{path}: expected a whole gzip file, found it damaged: {error}") from error


def _read_unzipped(path: Path, file: io.BufferedReader | gzip.GzipFile, dimensions: int) -> np.ndarray:
    magic = bytes([0, 0, 8, dimensions])
    header_length = 4 + 4 * dimensions
    header = file.read(header_length)
    if header[:4] != magic:
        raise CorruptData(
            f"{path}: expected an idx file of bytes in {dimensions} dimensions, "
            f"which begins {magic.hex(' ')}, found {header[:4].hex(' ') or 'an empty file'}"
        )
    if len(header) != header_length:
        raise CorruptData(f"{path}: expected a header of {header_length} bytes, found {len(header)}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if math.prod(max(length, 1) for length in shape) > LARGEST_FILE:
        raise CorruptData(
            f"{path}: expected at most {LARGEST_FILE} bytes of data, "
            f"found a header that declares {' x '.join(map(str, shape))}"
        )
    size = math.prod(shape)
    content = file.read(size + 1)
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise CorruptData(
            f"{path}: expected {size} bytes after the header, which declares "
            f"{' x '.join(map(str, shape))}, found {found}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
