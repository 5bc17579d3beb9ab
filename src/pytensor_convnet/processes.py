"""The processes of a data-parallel run: how one joins the others, which part of the work is its own, what they tell.

Every process runs the same program on its share of each minibatch. Launched by torchrun, which tells each its number
(``RANK``) among how many (``WORLD_SIZE``), and on which of its machine's GPUs it computes (``LOCAL_RANK``).
"""

import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import ArrayLike

from pytensor_convnet.kernels.collectives import LostProcess, all_mean_of_arrays, lost_process

TIMEOUT_VARIABLE = "PYTENSOR_CONVNET_TIMEOUT"
"""Environment variable: for how many seconds processes wait for one another."""

TIMEOUT = 300.0

GRACE = 3.0
"""Seconds from SIGTERM to the end: enough to finish a file, and to fail by oneself with a better message."""


class InvalidLaunch(ValueError):
    """What the environment tells of processes cannot be."""


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


def launched() -> Processes:
    """What torchrun's environment variables tell, before this process has joined any other.

    Raises
    ------
    InvalidLaunch
        ``RANK`` and ``WORLD_SIZE`` do not go together.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return ALONE
    rank, count = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise InvalidLaunch(f"RANK must be a number from 0 to below WORLD_SIZE, got RANK={rank} and WORLD_SIZE={count}")
    return Processes(int(rank), int(count))


@contextmanager
def joined(device: str = "cpu", timeout: float | None = None) -> Iterator[Processes]:
    """Join the other processes of the run, as torchrun launched them, and leave them in the end.

    Without torchrun, and with one process, there is nobody to join. Else torch.distributed's default group is made:
    gloo for what lies on the host and, for 'cuda', NCCL for what lies on the GPU numbered ``LOCAL_RANK``. While
    joined, the kernels' threads are as many as this process's share of the machine's cores, and SIGTERM ends the
    process with a message even where it waits for a GPU: torchrun sends it when another process has died.

    Parameters
    ----------
    device : 'cpu' or 'cuda'
        Where this process computes.
    timeout : float, optional
        For how many seconds processes wait for one another, compilation included. Else the environment variable
        ``PYTENSOR_CONVNET_TIMEOUT`` decides, else 300.

    Yields
    ------
    Processes

    Raises
    ------
    LostProcess
        The others cannot be reached.
    ImportError
        There are others, but torch is not installed.
    InvalidLaunch
        ``timeout`` or an environment variable cannot be; a ValueError that names it.
    ValueError
        ``device`` cannot be.

    Examples
    --------
    >>> with joined() as processes:
    ...     processes.count
    1
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    seconds = _checked_timeout(timeout)
    processes = launched()
    if processes.count == 1:
        yield ALONE
        return
    distributed = _torch_distributed(processes)
    try:
        _join(distributed, device, seconds)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostProcess(
            f"process {processes.rank} of {processes.count} did not reach the others within {seconds:g} s: {reason}"
        ) from error
    with _own_threads(), _ended_by_sigterm(processes):
        yield processes
    # Not after an error: NCCL would wait for the one that is lost.
    distributed.destroy_process_group()


def _checked_timeout(timeout: float | None) -> float:
    """``timeout``, or what the environment says, as seconds."""
    given = os.environ.get(TIMEOUT_VARIABLE, TIMEOUT) if timeout is None else timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        name = TIMEOUT_VARIABLE if timeout is None else "timeout"
        raise InvalidLaunch(f"{name} must be a positive number of seconds, got {given!r}")
    return seconds


def _torch_distributed(processes: Processes):
    try:
        import torch.distributed
    except ImportError as error:
        raise ImportError(
            f"WORLD_SIZE says that {processes.count} processes work together, which needs torch: "
            "pip install 'pytensor-convnet[torch]'"
        ) from error
    return torch.distributed


def _join(distributed, device: str, seconds: float) -> None:
    """Make torch.distributed's default group, and use it once."""
    import torch

    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=timedelta(seconds=seconds))
    # NCCL connects at the first collective, which it cannot do within the capture of a CUDA graph.
    distributed.all_reduce(torch.zeros(1, device=device))


@contextmanager
def _own_threads() -> Iterator[None]:
    """Let Numba's kernels use this process's share of the threads, unless NUMBA_NUM_THREADS says how many."""
    import numba

    before = numba.get_num_threads()
    if "NUMBA_NUM_THREADS" not in os.environ:
        numba.set_num_threads(max(1, before // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@contextmanager
def _ended_by_sigterm(processes: Processes) -> Iterator[None]:
    """End the process with a message soon after SIGTERM, whatever its main thread waits for.

    A signal handler in Python would run only when the main thread is back from compiled code, which it never is while
    it waits for a GPU that waits for a process that has died. So another thread reads which signals have come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous_handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
    previous_descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def end_after_sigterm() -> None:
        while received := reader.recv(1):
            if received[0] == signal.SIGTERM and not left.wait(GRACE):
                print(
                    f"error: process {processes.rank} of {processes.count} was told to end (SIGTERM), "
                    "as happens when another process of the run has ended",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)

    watch = threading.Thread(target=end_after_sigterm, name="ends after SIGTERM", daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(previous_descriptor)
        signal.signal(signal.SIGTERM, previous_handler)
        writer.close()  # the thread reads the end
        watch.join()
        reader.close()
