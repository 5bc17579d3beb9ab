"""The digits that come with scikit-learn: 1797 handwritten digits, there without any download.

They are the test part of the "Optical Recognition of Handwritten Digits" set (E. Alpaydin and C. Kaynak,
1998): 8 x 8 pixels of 17 grey levels. They are given here in MNIST's own format, a digit of 20 x 20 pixels
in a frame of 28 x 28, so that one network reads them, MNIST and Fashion-MNIST.
"""

import numpy as np

from pytensor_convnet.datasets.base import Dataset

DIGIT_LENGTH = 20
BORDER = 4
GREY_LEVELS = 16
TEST_FRACTION = 0.2


def load(seed: int = 0) -> Dataset:
    """The digits, split about 80 to 20 with each class in proportion.

    Parameters
    ----------
    seed : int
        Decides the split and the order; the same seed gives the same data set.

    Returns
    -------
    Dataset
        Images ``(batch, 1, 28, 28)``, 1438 to train and 359 to test.

    Raises
    ------
    ImportError
        scikit-learn is not installed.

    Examples
    --------
    >>> digits = load()
    >>> digits.train_images.shape, digits.test_images.shape
    ((1438, 1, 28, 28), (359, 1, 28, 28))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install 'pytensor-convnet[train]'"
        ) from error
    bundled = load_digits()
    images = frame(bundled.images / GREY_LEVELS)
    labels = bundled.target.astype(np.int32)
    train, test = stratified_split(labels, TEST_FRACTION, seed)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], tuple("0123456789"))


def interpolation_matrix(length: int, new_length: int) -> np.ndarray:
    """The weights of bilinear interpolation along one axis, float64 ``(new_length, length)``.

    Pixels are areas: the middle of new pixel i lies at ``(i + 1/2) length / new_length - 1/2``. Beyond the
    middle of the first and the last pixel the picture goes on unchanged, so every row sums to one.

    Examples
    --------
    >>> interpolation_matrix(2, 4)
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]])
    """
    middles = (np.arange(new_length) + 0.5) * length / new_length - 0.5
    distances = np.abs(np.clip(middles, 0, length - 1)[:, None] - np.arange(length))
    return np.maximum(1 - distances, 0)


def frame(images: np.ndarray) -> np.ndarray:
    """Small pictures as MNIST would hold them: resized to 20 x 20, within a border of 4 zeros.

    Parameters
    ----------
    images : array, (batch, rows, columns)

    Returns
    -------
    float32 array, (batch, 1, 28, 28)

    Examples
    --------
    >>> import numpy as np
    >>> framed = frame(np.ones((3, 8, 8)))
    >>> framed.shape, framed[0, 0, 3:6, 14]
    ((3, 1, 28, 28), array([0., 1., 1.], dtype=float32))
    """
    _, rows, columns = images.shape
    by_row = interpolation_matrix(rows, DIGIT_LENGTH)
    by_column = interpolation_matrix(columns, DIGIT_LENGTH)
    resized = (by_row @ images @ by_column.T).astype(np.float32)
    border = (BORDER, BORDER)
    return np.pad(resized, ((0, 0), border, border))[:, None]


def stratified_split(labels: np.ndarray, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions to test on, with every class in proportion in both.

    Parameters
    ----------
    labels : integer array, (batch,)
    test_fraction : float
        The share of each class, rounded, that is for testing.
    seed : int
        Decides which, and the order: classes come mixed, as minibatches need them.

    Returns
    -------
    train, test : integer arrays

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    >>> train, test = stratified_split(labels, 0.2, seed=0)
    >>> sorted(labels[train].tolist()), sorted(labels[test].tolist())
    ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1])
    """
    generator = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = round(test_fraction * len(members))
        test.append(members[:count])
        train.append(members[count:])
    return generator.permutation(np.concatenate(train)), generator.permutation(np.concatenate(test))
