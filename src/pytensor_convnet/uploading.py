"""Minibatches of a data set in the host's memory, brought to a GPU while it computes with the one before.

A minibatch goes through three stages: a thread gathers its images into pinned memory, a stream of its own copies them
to the GPU, and the stream that computes waits for that copy alone. Buffers are used in turn: one is filled again once
the step that read it is done, which the GPU finds out for itself.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from pytensor_convnet.prefetching import prefetched


class Uploader:
    """Buffers for minibatches on the host and on a GPU, and the stream that copies between them.

    Parameters
    ----------
    device : str
        A GPU, by torch's name for it.
    batch_size : int
        How many images a buffer holds.
    slots : int
        How many buffers there are.
    """

    def __init__(self, device: str, batch_size: int, slots: int) -> None:
        import torch

        self.batch_size = batch_size
        self.slots = slots
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def uploaded(
        self, images: np.ndarray, labels: np.ndarray, minibatches: Iterator[np.ndarray]
    ) -> Iterator[tuple[Any, Any]]:
        """Images and labels on the GPU, for each minibatch of positions.

        Parameters
        ----------
        images : float32 array, (number, channels, rows, columns)
        labels : int32 array, (number,)
        minibatches : iterator of integer arrays, (at most batch_size,)

        Yields
        ------
        images : torch float32 tensor, (batch, channels, rows, columns)
        labels : torch int32 tensor, (batch,)
            To be used on the stream that is current, until the next ones are asked for.
        """
        import torch

        slots = [_Slot(self.device, self.batch_size, images, labels) for _ in range(self.slots)]
        filled = (slots[turn % len(slots)].fill(self.stream, some) for turn, some in enumerate(minibatches))
        computing = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(computing)  # which may still use what was in the memory of these buffers
        try:
            with closing(prefetched(filled, self.slots)) as ready:  # type: ignore[type-var]
                for slot in ready:
                    computing.wait_event(slot.copied)
                    yield slot.minibatch
                    slot.used.record(computing)
        finally:
            # The allocator knows the buffers on one stream only, and gives them away once they are forgotten.
            self.stream.synchronize()
            computing.synchronize()


class _Slot:
    """A buffer on the host, one on the GPU, and the events that say when each may be filled again."""

    def __init__(self, device: str, batch_size: int, images: np.ndarray, labels: np.ndarray) -> None:
        import torch

        self.arrays = (images, labels)
        self.pinned = [
            torch.empty((batch_size, *array.shape[1:]), dtype=dtype, pin_memory=True)
            for array, dtype in zip(self.arrays, (torch.float32, torch.int32))
        ]
        self.uploaded = [torch.empty_like(buffer, device=device, pin_memory=False) for buffer in self.pinned]
        self.copied = torch.cuda.Event()
        self.used = torch.cuda.Event()
        self.minibatch: tuple[Any, ...] = ()

    def fill(self, stream: Any, positions: np.ndarray) -> "_Slot":
        """Gather the images at ``positions`` and let ``stream`` copy them."""
        import torch

        self.copied.synchronize()  # the copy out of the pinned buffer, three minibatches ago
        count = len(positions)
        for array, buffer in zip(self.arrays, self.pinned):
            # Positions are within the array; any other mode would gather into a buffer first.
            np.take(array, positions, axis=0, out=buffer.numpy()[:count], mode="clip")
        with torch.cuda.stream(stream):
            stream.wait_event(self.used)
            for buffer, target in zip(self.pinned, self.uploaded):
                target[:count].copy_(buffer[:count], non_blocking=True)
            self.copied.record(stream)
        self.minibatch = tuple(target[:count] for target in self.uploaded)
        return self
