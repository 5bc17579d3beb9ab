"""Timing several implementations fairly, on a machine that others may use too, and the memory that a call needs.

Implementations take turns (A B C, A B C, ...), so that a slow moment of the machine hits all of them. A turn begins
with a pause, in which idle threads of the implementation before stop to spin on the cores that this one wants, and
with calls that are not counted: a program that trains a network calls one library over and over as well.
"""

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)

PAUSE_SECONDS = 0.02
"""OpenMP's idle threads spin about 7 ms on a free core, and for as many rounds on one that they must share."""

WARM_UP_SECONDS = 0.01
"""How long a turn warms up, at least."""

LEAST_TURNS = 5
MOST_TURNS = 50


def interleaved_medians(calls: Mapping[Key, Callable[[], object]], seconds: float = 1.0) -> dict[Key, float]:
    """Median seconds of each call, all of them taking turns.

    Parameters
    ----------
    calls : mapping of key to function without arguments
        Each is called twice beforehand, to compile and to touch its memory.
    seconds : float
        About how long to spend on each of them. There are at least five turns, however long they take.

    Returns
    -------
    dict of key to float

    Examples
    --------
    >>> medians = interleaved_medians({"short": lambda: sum(range(9)), "long": lambda: sum(range(99_999))}, 0.1)
    >>> medians["short"] < medians["long"]
    True
    """
    longest = 0.0
    for call in calls.values():
        call()
        longest = max(longest, seconds_of(call))
    turn = 2 * max(longest, WARM_UP_SECONDS)
    turns = int(min(max(seconds / turn, LEAST_TURNS), MOST_TURNS))
    samples: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(turns):
        for key, call in calls.items():
            time.sleep(PAUSE_SECONDS)
            _samples(call, WARM_UP_SECONDS)
            samples[key] += _samples(call, WARM_UP_SECONDS)
    return {key: statistics.median(values) for key, values in samples.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _samples(call: Callable[[], object], seconds: float) -> list[float]:
    """The times of as many calls as fill ``seconds``, one at least."""
    samples = [seconds_of(call)]
    while sum(samples) < seconds:
        samples.append(seconds_of(call))
    return samples


def extra_bytes(call: Callable[[], Any]) -> int | None:
    """Peak memory of a call beyond what was there before and what it returns.

    What the call finds in buffers that another library keeps from earlier calls is not seen. Exact to some 100 KB, as
    the system's own counts are, or to 2 MB an array where the system gives huge pages.

    Parameters
    ----------
    call : function without arguments
        Its result is an array or has ``nbytes`` like one; other results count as nothing.

    Returns
    -------
    int, or None where the system does not tell (it takes Linux)

    Examples
    --------
    >>> import numpy as np
    >>> extra = extra_bytes(lambda: np.ones(2_000_000).astype("float32"))  # 16 MB, and 8 MB of result
    >>> extra is None or 14e6 < extra < 20e6
    True
    """
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and os.access(forget, os.W_OK)):
        return None

    def resident(key: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return 1024 * int(line.split()[1])

    call()
    _return_free_memory()
    forget.write_text("5")  # the peak is from now on
    before = resident("VmRSS")
    result = call()
    peak = resident("VmHWM")
    return max(0, peak - before - getattr(result, "nbytes", 0))


def _return_free_memory() -> None:
    """Give freed memory back to the system, which else would be reused unnoticed."""
    from pytensor_convnet.kernels.cpu.kept_memory import release_memory

    gc.collect()
    release_memory()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)
