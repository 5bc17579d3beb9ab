"""How a process joins the others of its run, and what becomes of it when one is lost.

Runs are launched by torchrun, which tells each process its number (``RANK``) among how many (``WORLD_SIZE``), and on
which of its machine's GPUs it computes (``LOCAL_RANK``).
"""

import math
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from pytensor_convnet.kernels.collectives import LostProcess
from pytensor_convnet.processes import ALONE, Processes

TIMEOUT_VARIABLE = "PYTENSOR_CONVNET_TIMEOUT"
"""Environment variable: for how many seconds processes wait for one another."""

TIMEOUT = 300.0

GRACE = 10.0
"""Seconds from SIGTERM to the end: enough to finish a file, and to fail by oneself with a better message."""


class InvalidLaunch(ValueError):
    """What the environment tells of processes cannot be."""


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
    gloo for what lies on the host and, with a GPU, NCCL for what lies there. While joined, the kernels' threads are as
    many as this process's share of the machine's cores, and SIGTERM ends the process with a message even where it waits
    for a GPU: torchrun sends it when another process has died.

    Parameters
    ----------
    device : str
        Where this process computes: 'cpu', a GPU as torch names it ('cuda:1'), or 'cuda' for the one whose number on
        this machine is the process's (``LOCAL_RANK``).
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
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be 'cpu', 'cuda' or one GPU such as 'cuda:1', got {device!r}")
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
    if device != "cpu":
        torch.cuda.set_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device)
        device, backend = "cuda", "cpu:gloo,cuda:nccl"
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
    watch = threading.Thread(target=_end_after_sigterm, args=(processes, left, reader, writer), daemon=True)
    watch.start()
    yield
    # Not after an error: SIGTERM, which comes soon then, leaves the time to tell it.
    left.set()
    signal.set_wakeup_fd(previous_descriptor)
    signal.signal(signal.SIGTERM, previous_handler)
    writer.close()  # the thread reads the end
    watch.join()
    reader.close()


def _end_after_sigterm(
    processes: Processes, left: threading.Event, reader: socket.socket, writer: socket.socket
) -> None:
    """Read the numbers of signals, and end the process after SIGTERM unless ``left`` is set soon.

    ``writer``, where the signals are written, lives as long as someone reads.
    """
    while received := reader.recv(1):
        if received[0] == signal.SIGTERM and not left.wait(GRACE):
            print(
                f"error: process {processes.rank} of {processes.count} was told to end (SIGTERM), "
                "as happens when another process of the run has ended",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)
