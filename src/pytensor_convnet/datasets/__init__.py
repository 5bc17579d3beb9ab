"""Data sets for image classification: scikit-learn's digits, MNIST, Fashion-MNIST and CIFAR-10.

Nothing is downloaded. The digits come with scikit-learn; the others are read from their published files.
"""

from pathlib import Path

from pytensor_convnet.datasets import cifar10, digits, idx
from pytensor_convnet.datasets.base import CorruptData, Dataset, MissingData

__all__ = ["NAMES", "CorruptData", "Dataset", "MissingData", "load"]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")
"""The data sets that `load` knows."""


def load(name: str, folder: Path | str | None = None, seed: int = 0) -> Dataset:
    """A data set by its name.

    Parameters
    ----------
    name : {'digits', 'mnist', 'fashion-mnist', 'cifar10'}
    folder : path, optional
        Where the files of the last three are, directly or in the folders that their archives unpack to. By
        default they are looked for in the folder that the environment variable PYTENSOR_CONVNET_DATA names,
        in ``~/.cache/pytensor-convnet`` and in ``/usr/share/datasets``.
    seed : int
        Decides which digits are for testing; the others are published in two parts.

    Returns
    -------
    Dataset
        Images float32 ``(batch, channels, rows, columns)`` in [0, 1], labels int32 ``(batch,)``. All but
        CIFAR-10's, which are ``(batch, 3, 32, 32)``, are ``(batch, 1, 28, 28)``.

    Raises
    ------
    ValueError
        There is no such data set.
    MissingData
        Its files were not found; the message says where they were looked for and where they are published.
    CorruptData
        A file is damaged; the message says which and how.
    ImportError
        The digits are asked for and scikit-learn is not installed.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.image_shape, digits.number_of_classes, len(digits.train_images), len(digits.test_images)
    ((1, 28, 28), 10, 1438, 359)
    """
    match name:
        case "digits":
            return digits.load(seed)
        case "mnist" | "fashion-mnist":
            return idx.load(name, folder)
        case "cifar10":
            return cifar10.load(folder)
    raise ValueError(f"there is no data set {name!r}; choose among {', '.join(NAMES)}")
