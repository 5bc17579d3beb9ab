"""CIFAR-10, in its binary version and its Python version.

Both hold five batches to train on and one to test on. A record of the binary version is a byte of label and
3072 bytes of image, channel by channel (red, green, blue), row by row; the Python version holds the same
bytes in pickles, read by `unpickling` and never by Python's own unpickler.
"""

import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from pytensor_convnet.datasets.base import (
    CorruptData,
    Dataset,
    check_labels,
    data_folders,
    find_files,
    places_within,
    read_file,
    scale,
)
from pytensor_convnet.datasets.unpickling import read_pickle

IMAGE_SHAPE = (3, 32, 32)
IMAGE_SIZE = 3072
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
WHERE_FROM = "www.cs.toronto.edu/~kriz/cifar.html (unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz)"

TRAIN_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
PYTHON_LAYOUT = {batch: [batch] for batch in [*TRAIN_BATCHES, "test_batch"]}
BINARY_LAYOUT = {f"{batch}.bin": [f"{batch}.bin"] for batch in PYTHON_LAYOUT}
SUBFOLDERS = ["cifar-10-batches-bin", "cifar-10-batches-py"]


def load(folder: Path | str | None = None) -> Dataset:
    """CIFAR-10 from the files of its binary version, or else of its Python version.

    Parameters
    ----------
    folder : path, optional
        Holds the files, in itself or in a folder called ``cifar-10-batches-bin`` or
        ``cifar-10-batches-py``, or holds a folder ``cifar10`` that does. By default PYTENSOR_CONVNET_DATA,
        ``~/.cache/pytensor-convnet`` and ``/usr/share/datasets`` are searched in the same way.

    Returns
    -------
    Dataset
        Images ``(batch, 3, 32, 32)``. The class names are those of ``batches.meta`` where it is there.

    Raises
    ------
    MissingData
        The files are in none of these places.
    CorruptData
        A file is not what it should be.

    Examples
    --------
    >>> load("no/where")
    Traceback (most recent call last):
    ...
    pytensor_convnet.datasets.base.MissingData: the data set cifar10 was not found.
    ...
    """
    subfolders = [*(f"cifar10/{subfolder}" for subfolder in SUBFOLDERS), "cifar10", *SUBFOLDERS]
    places = places_within(data_folders(folder), subfolders)
    files = find_files("cifar10", [BINARY_LAYOUT, PYTHON_LAYOUT], places, WHERE_FROM)
    batches = [_read_batch(path) for path in files.values()]
    train_images, train_labels = (np.concatenate(arrays) for arrays in zip(*batches[:-1]))
    test_images, test_labels = batches[-1]
    class_names = _read_class_names(next(iter(files.values())))
    return Dataset("cifar10", scale(train_images), train_labels, scale(test_images), test_labels, class_names)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_binary_batch(path) if path.suffix == ".bin" else read_python_batch(path)


def read_binary_batch(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a batch of the binary version.

    Parameters
    ----------
    path : path

    Returns
    -------
    images : uint8 array, (batch, 3, 32, 32)
    labels : int32 array, (batch,)

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "test_batch.bin")
    ...     _ = path.write_bytes(bytes([7]) + bytes(3072) + bytes([2]) + bytes(3072))
    ...     images, labels = read_binary_batch(path)
    >>> images.shape, labels
    ((2, 3, 32, 32), array([7, 2], dtype=int32))
    """
    path = Path(path)
    content = read_file(path)
    if not content or len(content) % (1 + IMAGE_SIZE):
        raise CorruptData(
            f"{path}: expected records of {1 + IMAGE_SIZE} bytes, "
            f"found {len(content)} bytes, {len(content) / (1 + IMAGE_SIZE):g} records"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + IMAGE_SIZE)
    return records[:, 1:].reshape(-1, *IMAGE_SHAPE), check_labels(path, records[:, 0], len(CLASS_NAMES))


def read_python_batch(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a batch of the Python version.

    Parameters
    ----------
    path : path

    Returns
    -------
    images : uint8 array, (batch, 3, 32, 32)
    labels : int32 array, (batch,)

    Examples
    --------
    >>> import pickle, tempfile
    >>> import numpy as np
    >>> batch = {b"data": np.zeros((2, 3072), "uint8"), b"labels": [7, 2]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "test_batch")
    ...     _ = path.write_bytes(pickle.dumps(batch, protocol=2))
    ...     images, labels = read_python_batch(path)
    >>> images.shape, labels
    ((2, 3, 32, 32), array([7, 2], dtype=int32))
    """
    path = Path(path)
    batch = read_pickle(path)
    data, labels = _entry(path, batch, "data", np.ndarray), _entry(path, batch, "labels", list)
    if data.ndim != 2 or data.shape[1] != IMAGE_SIZE:
        raise CorruptData(f"{path}: expected data of shape (batch, {IMAGE_SIZE}), found {data.shape}")
    if len(labels) != len(data):
        raise CorruptData(f"{path}: expected {len(data)} labels, one for each row of data, found {len(labels)}")
    for position, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASS_NAMES):
            raise CorruptData(
                f"{path}: expected labels from 0 to {len(CLASS_NAMES) - 1}, "
                f"found {reprlib.repr(label)} at position {position}"
            )
    return data.reshape(-1, *IMAGE_SHAPE), np.array(labels, np.int32)


def _entry(path: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    """What ``content`` holds under ``key``, which must be of ``kind``."""
    if key not in content:
        raise CorruptData(f"{path}: expected an entry {key!r}, found {reprlib.repr(list(content))}")
    if not isinstance(content[key], kind):
        raise CorruptData(
            f"{path}: expected {key!r} to be of type {kind.__name__}, found {type(content[key]).__name__}"
        )
    return content[key]


def _read_class_names(batch: Path) -> tuple[str, ...]:
    """The ten names in the file ``batches.meta`` beside ``batch``, or the published ones without it."""
    path = batch.with_name("batches.meta.txt" if batch.suffix == ".bin" else "batches.meta")
    if not path.is_file():
        return CLASS_NAMES
    if batch.suffix == ".bin":
        names = read_file(path).decode("latin-1").split()
    else:
        names = _entry(path, read_pickle(path), "label_names", list)
    names = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
    usable = [name for name in names if isinstance(name, str) and name.isprintable() and name]
    if len(names) != len(CLASS_NAMES) or len(usable) != len(names):
        raise CorruptData(f"{path}: expected {len(CLASS_NAMES)} printable class names, found {reprlib.repr(names)}")
    return tuple(names)
