"""The processes of a data-parallel run: which part of the work is whose, and what they tell one another.

Every process runs the same program on its share of each minibatch; `joining` says how they come together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pytensor_convnet.kernels.collectives import all_mean_of_arrays, lost_process


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    Attributes
    ----------
    rank : int
        The number of this process, from 0. Process 0 speaks and writes for all.
    count : int
        How many there are.

    Examples
    --------
    >>> order = np.arange(10)  # in minibatches of 4, 4 and 2
    >>> Processes(0, 2).share(order, 4), Processes(1, 2).share(order, 4)
    (array([0, 1, 4, 5, 8]), array([2, 3, 6, 7, 9]))
    >>> Processes(0, 2).part(order), Processes(1, 2).part(order)
    (array([0, 1, 2, 3, 4]), array([5, 6, 7, 8, 9]))
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which prints, draws and saves."""
        return self.rank == 0

    def batch_share(self, batch_size: int) -> int:
        """How many images of each minibatch are this process's.

        Parameters
        ----------
        batch_size : int
            Of all processes together.

        Raises
        ------
        ValueError
            The processes cannot share a minibatch evenly.

        Examples
        --------
        >>> Processes(0, 4).batch_share(128)
        32
        >>> Processes(0, 4).batch_share(50)
        Traceback (most recent call last):
        ...
        ValueError: batch_size must be a multiple of the number of processes, got 50 for 4 processes
        """
        if batch_size % self.count:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, got {batch_size} for {self.count} processes"
            )
        return batch_size // self.count

    def share(self, order: np.ndarray, batch_size: int) -> np.ndarray:
        """What of each minibatch is this process's, minibatch after minibatch.

        Cut into pieces of `batch_share`, the result gives this process's contiguous share of one minibatch after the
        other. Of a smaller last minibatch processes get equal shares up to one image, maybe none.

        Parameters
        ----------
        order : array, (number, ...)
            What minibatches are cut from, the same on every process.
        batch_size : int
            Of all processes together.

        Returns
        -------
        array, (about number / count, ...)
        """
        share = self.batch_share(batch_size)
        whole = len(order) // batch_size * batch_size
        batches = order[:whole].reshape(-1, self.count, share, *order.shape[1:])
        return np.concatenate([batches[:, self.rank].reshape(-1, *order.shape[1:]), self.part(order[whole:])])

    def part(self, array: np.ndarray) -> np.ndarray:
        """This process's contiguous part of an array; processes' parts are equal up to one entry."""
        return array[len(array) * self.rank // self.count : len(array) * (self.rank + 1) // self.count]

    def total(self, numbers: ArrayLike) -> np.ndarray:
        """The sum over processes of float64 ``numbers``, the same on each; all must ask for it."""
        if self.count == 1:  # whatever group of torch.distributed the program may use for itself
            return np.asarray(numbers, np.float64)
        return self.count * all_mean_of_arrays([np.asarray(numbers, np.float64)])[0]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any process; all must ask."""
        return bool(self.total(np.array(float(flag))) > 0)

    def from_first(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays that process 0 has; all must ask, with arrays of the same names, dtypes and shapes.

        Raises
        ------
        LostProcess
        """
        if self.count == 1:
            return dict(arrays)
        import torch
        import torch.distributed

        received = {}
        for name, array in arrays.items():
            tensor = torch.from_numpy(np.array(array, order="C"))
            try:
                torch.distributed.broadcast(tensor, src=0)
            except RuntimeError as error:
                raise lost_process(error) from error
            received[name] = tensor.numpy()
        return received


ALONE = Processes()
"""The one process of a run without others."""
