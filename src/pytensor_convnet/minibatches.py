"""How minibatches come to a compiled function: from images that lie where it computes, or streamed from the host.

Both kinds of data have parts (images to learn from, images for testing) and an order: the positions, in one part, of
images as minibatches take them. To shuffle images, or to use some of them, is to set another order; the images stay
where they are.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.prefetching import SLOTS, prefetched
from pytensor_convnet.uploading import Uploader

Data = TypeVar("Data", bound="LabelledImages")
Part = tuple[np.ndarray, np.ndarray]
"""Images (number, channels, rows, columns), float32, and their labels (number,), integers."""


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
    """Images with labels, in one or more parts, and an order in which minibatches take them.

    Parameters
    ----------
    parts : sequence of (array, array)
        Images of the same shape, and their labels. At first the order is that in which the first part lies.
    """

    count: int

    def __init__(self, parts: Sequence[Part]) -> None:
        self.sizes = [len(labels) for _, labels in parts]
        self.image_shape = parts[0][0].shape[1:]

    @abstractmethod
    def symbolic_minibatch(self) -> tuple[list[Variable], Variable, Variable]:
        """The inputs of a function of one minibatch, and the images and labels that they stand for.

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
    def set_order(self, positions: np.ndarray, part: int = 0) -> None:
        """Let minibatches take the images at ``positions`` of a part, an integer array, in this order."""

    def with_order(self: Data, positions: np.ndarray) -> Data:
        """The same images, with an order of their own: ``positions`` of the first part."""
        other = copy.copy(self)
        other.set_order(positions)
        return other

    def number_of_batches(self, batch_size: int) -> int:
        """How many minibatches the order makes; the last may be smaller."""
        return math.ceil(self.count / batch_size)

    def bounds(self, batch_size: int, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, int]]:
        """Where in the order minibatches begin and end."""
        for number in range(self.number_of_batches(batch_size)) if numbers is None else numbers:
            yield number * batch_size, min((number + 1) * batch_size, self.count)


class SharedImages(LabelledImages):
    """Labelled images in shared variables, from which two numbers select a minibatch.

    Parameters
    ----------
    parts : sequence of (array, array)

    Examples
    --------
    >>> data = SharedImages([(np.zeros((5, 1, 2, 2), "float32"), np.array([4, 3, 2, 1, 0]))])
    >>> list(data.minibatches(batch_size=2))
    [(0, 2), (2, 4), (4, 5)]
    >>> (start, stop), _, labels = data.symbolic_minibatch()
    >>> labels.eval({start: 2, stop: 4})
    array([2, 1], dtype=int32)
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(parts)
        images = parts[0][0] if len(parts) == 1 else np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts]).astype(np.int32)
        self.images = pytensor.shared(images, name="all images", shape=images.shape, borrow=True)
        self.labels = pytensor.shared(labels, name="all labels", shape=labels.shape)
        self._begin_order(np.arange(self.sizes[0]))

    def symbolic_minibatch(self) -> tuple[list[Variable], Variable, Variable]:
        start, stop = pt.lscalars("start", "stop")
        positions = self.order[start:stop]
        return [start, stop], self.images[positions], self.labels[positions]

    def minibatches(self, batch_size: int, numbers: Iterable[int] | None = None) -> Iterator[tuple[Any, ...]]:
        return self.bounds(batch_size, numbers)

    def set_order(self, positions: np.ndarray, part: int = 0) -> None:
        # Of one length whatever the order: a function captured for minibatches of one serves those of all.
        padded = np.zeros(sum(self.sizes), np.int64)
        padded[: len(positions)] = positions + sum(self.sizes[:part])
        self.order.set_value(padded, borrow=True)
        self.count = len(positions)

    def with_order(self, positions: np.ndarray) -> "SharedImages":
        other = copy.copy(self)
        other._begin_order(positions)
        return other

    def _begin_order(self, positions: np.ndarray) -> None:
        self.order = pytensor.shared(np.zeros(0, np.int64), name="order", shape=(None,))
        self.set_order(positions)


class StreamedImages(LabelledImages):
    """Labelled images in the memory of the host: a thread gathers minibatches, and brings them to a GPU, ahead.

    Parameters
    ----------
    parts : sequence of (array, array)
    device : str, optional
        The GPU on which minibatches are wanted, by torch's name for it. Without, they stay NumPy's.

    Examples
    --------
    >>> data = StreamedImages([(np.zeros((5, 1, 2, 2), "float32"), np.array([4, 3, 2, 1, 0]))])
    >>> [labels.tolist() for images, labels in data.minibatches(batch_size=2)]
    [[4, 3], [2, 1], [0]]
    """

    def __init__(self, parts: Sequence[Part], device: str | None = None) -> None:
        super().__init__(parts)
        self.parts = [(images, labels.astype(np.int32)) for images, labels in parts]
        self.device = device
        self.set_order(np.arange(self.sizes[0]))

    def symbolic_minibatch(self) -> tuple[list[Variable], Variable, Variable]:
        images = pt.tensor("images", shape=(None, *self.image_shape), dtype="float32")
        labels = pt.ivector("labels")
        return [images, labels], images, labels

    def minibatches(self, batch_size: int, numbers: Iterable[int] | None = None) -> Iterator[tuple[Any, ...]]:
        images, labels = self.parts[self.part]
        positions = (self.order[start:stop] for start, stop in self.bounds(batch_size, numbers))
        if self.device is None:
            ahead = prefetched((images[some], labels[some]) for some in positions)
        else:
            ahead = Uploader(self.device, batch_size, SLOTS).uploaded(images, labels, positions)
        with closing(ahead):  # type: ignore[type-var]
            yield from ahead

    def set_order(self, positions: np.ndarray, part: int = 0) -> None:
        self.order, self.part = positions, part
        self.count = len(positions)
