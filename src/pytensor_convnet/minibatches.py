"""How minibatches come to a compiled function: from images that lie where it computes, or streamed from the host.

Both kinds of data have an order: the positions of images as minibatches take them. To shuffle images, or to use a part
of them, is to set another order; the images stay where they are.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.prefetching import SLOTS, prefetched
from pytensor_convnet.uploading import Uploader

Data = TypeVar("Data", bound="LabelledImages")


def epoch_order(positions: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch learns from images.

    It follows from its arguments alone, so that a training that is resumed, or one of several processes that share an
    epoch, needs no more than these to go on.

    Parameters
    ----------
    positions : integer array, (number,)
        Where the images are that are learnt from.
    seed, epoch : int

    Returns
    -------
    integer array, (number,)
        The same positions, shuffled.

    Examples
    --------
    >>> sorted(epoch_order(np.arange(5), seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.random.default_rng((seed, epoch)).permutation(positions)


class LabelledImages(ABC):
    """Images with labels, and an order in which minibatches take them; at first, that in which they lie."""

    count: int

    @abstractmethod
    def symbolic_minibatch(self, batch_size: int) -> tuple[list[Variable], Variable, Variable]:
        """The inputs of a function of one minibatch, and the images and labels that they stand for.

        Parameters
        ----------
        batch_size : int

        Returns
        -------
        inputs : list of symbolic variables
            For each, `minibatches` gives a value.
        images : float32 tensor, (batch, channels, rows, columns)
        labels : int32 tensor, (batch,)
        """

    @abstractmethod
    def minibatches(self, batch_size: int, numbers: Iterable[int] | None = None) -> Iterator[tuple[Any, ...]]:
        """The arguments for the inputs of `symbolic_minibatch`, for each minibatch of the order.

        Parameters
        ----------
        batch_size : int
        numbers : iterable of int, optional
            Which minibatches, counted from 0; by default all.

        Yields
        ------
        tuple
            Valid until the next one is asked for. Close the generator where it is not used up (`contextlib.closing`).
        """

    @abstractmethod
    def set_order(self, positions: np.ndarray) -> None:
        """Let minibatches take the images at ``positions``, an integer array, in this order."""

    @abstractmethod
    def replace(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Put other images in their place, in the order in which they lie."""

    def with_order(self: Data, positions: np.ndarray) -> Data:
        """The same images, in an order of their own."""
        other = copy.copy(self)
        other.set_order(positions)
        return other

    def number_of_batches(self, batch_size: int) -> int:
        """How many minibatches the order makes; the last may be smaller."""
        return math.ceil(self.count / batch_size)


class SharedImages(LabelledImages):
    """Labelled images in shared variables, from which the number of a minibatch selects it.

    Parameters
    ----------
    images : float32 array, (number, channels, rows, columns)
    labels : integer array, (number,)

    Examples
    --------
    >>> data = SharedImages(np.zeros((5, 1, 2, 2), "float32"), np.array([4, 3, 2, 1, 0]))
    >>> data.number_of_batches(2)  # of 2, 2 and 1 images
    3
    >>> (number,), _, labels = data.symbolic_minibatch(batch_size=2)
    >>> labels.eval({number: 1})
    array([2, 1], dtype=int32)
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = pytensor.shared(images, name="all images", shape=(None, *images.shape[1:]), borrow=True)
        self.labels = pytensor.shared(labels.astype(np.int32), name="all labels", shape=(None,))
        self._begin_order(np.arange(len(labels)))

    def symbolic_minibatch(self, batch_size: int) -> tuple[list[Variable], Variable, Variable]:
        number = pt.lscalar("number")
        positions = self.order[number * batch_size : (number + 1) * batch_size]
        return [number], self.images[positions], self.labels[positions]

    def minibatches(self, batch_size: int, numbers: Iterable[int] | None = None) -> Iterator[tuple[Any, ...]]:
        for number in range(self.number_of_batches(batch_size)) if numbers is None else numbers:
            yield (number,)

    def set_order(self, positions: np.ndarray) -> None:
        self.order.set_value(positions)
        self.count = len(positions)

    def with_order(self, positions: np.ndarray) -> "SharedImages":
        other = copy.copy(self)
        # A variable of its own: functions of both data keep the length that their order has.
        other._begin_order(positions)
        return other

    def replace(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images.set_value(images, borrow=True)
        self.labels.set_value(labels.astype(np.int32))
        self.set_order(np.arange(len(labels)))

    def _begin_order(self, positions: np.ndarray) -> None:
        self.order = pytensor.shared(positions, name="order", shape=(None,))
        self.count = len(positions)


class StreamedImages(LabelledImages):
    """Labelled images in the memory of the host: a thread gathers minibatches, and brings them to a GPU, ahead.

    Parameters
    ----------
    images : float32 array, (number, channels, rows, columns)
    labels : integer array, (number,)
    device : str, optional
        The GPU on which minibatches are wanted, by torch's name for it. Without, they stay NumPy's.

    Examples
    --------
    >>> data = StreamedImages(np.zeros((5, 1, 2, 2), "float32"), np.array([4, 3, 2, 1, 0]))
    >>> [labels.tolist() for images, labels in data.minibatches(batch_size=2)]
    [[4, 3], [2, 1], [0]]
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, device: str | None = None) -> None:
        self.device = device
        self.replace(images, labels)

    def symbolic_minibatch(self, batch_size: int) -> tuple[list[Variable], Variable, Variable]:
        images = pt.tensor("images", shape=(None, *self.images.shape[1:]), dtype="float32")
        labels = pt.ivector("labels")
        return [images, labels], images, labels

    def minibatches(self, batch_size: int, numbers: Iterable[int] | None = None) -> Iterator[tuple[Any, ...]]:
        if numbers is None:
            numbers = range(self.number_of_batches(batch_size))
        positions = (self.order[number * batch_size : (number + 1) * batch_size] for number in numbers)
        if self.device is None:
            ahead = prefetched((self.images[some], self.labels[some]) for some in positions)
        else:
            ahead = Uploader(self.device, batch_size, SLOTS).uploaded(self.images, self.labels, positions)
        with closing(ahead):  # type: ignore[type-var]
            yield from ahead

    def set_order(self, positions: np.ndarray) -> None:
        self.order = positions
        self.count = len(positions)

    def replace(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = images
        self.labels = labels.astype(np.int32)
        self.set_order(np.arange(len(labels)))
