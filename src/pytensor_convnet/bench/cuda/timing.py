"""How long GPU work takes: CUDA graphs of calls on several sets of operands, timed with events; and ceilings."""

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pytensor_convnet.kernels.cuda.tf32 import tf32_products

PACKAGE = Path(__file__).parents[2]
"""The folder of this package."""

ROTATED_BYTES = 2**28
"""Sets of operands together exceed this where they can: several times the second-level cache, so none stays there."""

MOST_SETS = 8

GRAPH_SECONDS = 1e-3
"""A graph is made about as long as this, which makes its own launch count for nothing."""

MOST_CALLS = 64
REPLAYS = 15
GEMM_SIZE = 8192
COPY_BYTES = 2**30


@dataclass(frozen=True)
class GpuMachine:
    """What was measured on, and its ceilings at the time.

    Attributes
    ----------
    processor : str
        The GPU's name.
    packages : dict of str to str
        Versions of the packages that took part.
    tf32_flops_per_second, bfloat16_flops_per_second : float
        Of a product of large square matrices by cuBLAS, on random data.
    copy_bytes_per_second : float
        Of copying a gigabyte, reads and writes added.
    driver, cuda, python : str or None
        Versions of NVIDIA's driver, of the CUDA that torch was built for, and of Python; None where they are not known.
    commit : str or None
        What `commit_of` tells of this package.
    """

    processor: str
    packages: dict[str, str]
    tf32_flops_per_second: float
    bfloat16_flops_per_second: float
    copy_bytes_per_second: float
    driver: str | None = None
    cuda: str | None = None
    python: str | None = None
    commit: str | None = None

    @classmethod
    def measured(cls, packages: dict[str, str]) -> "GpuMachine":
        """This GPU, with its ceilings measured now."""
        return cls(
            processor=torch.cuda.get_device_name(),
            packages=packages,
            tf32_flops_per_second=_matrix_rate(torch.float32),
            bfloat16_flops_per_second=_matrix_rate(torch.bfloat16),
            copy_bytes_per_second=_copy_rate(),
            driver=_driver(),
            cuda=torch.version.cuda,
            python=platform.python_version(),
            commit=commit_of(PACKAGE),
        )

    def flops_per_second(self, dtype: str) -> float:
        """The rate that floors of float32, which may be tf32, or of bfloat16 are made of."""
        return self.bfloat16_flops_per_second if dtype == "bfloat16" else self.tf32_flops_per_second


def commit_of(folder: Path) -> str | None:
    """The commit of a package's folder in a git checkout, with a '+' where its files are not those of the commit.

    Of the folder alone: figures that a run writes elsewhere in the checkout change no kernel. None where the package
    is in no checkout, be it that its folder lies in that of another project.
    """
    if _told_by("git", "ls-files", "--error-unmatch", "__init__.py", folder=folder) is None:
        return None
    commit = _told_by("git", "rev-parse", "--short", "HEAD", folder=folder)
    changed = _told_by("git", "status", "--porcelain", ".", folder=folder)
    return f"{commit}+" if commit and changed else commit


def _driver() -> str | None:
    """The version of NVIDIA's driver, which is the same for all GPUs."""
    told = _told_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return told.splitlines()[0] if told else None


def _told_by(*command: str, folder: Path | None = None) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def sets_of_operands(nbytes: int) -> int:
    """How many sets of operands of so many bytes a measurement takes in turn.

    Examples
    --------
    >>> sets_of_operands(2**20), sets_of_operands(2**27), sets_of_operands(2**30)
    (8, 3, 1)
    """
    return max(1, min(MOST_SETS, ROTATED_BYTES // max(nbytes, 1) + 1)) if nbytes < ROTATED_BYTES else 1


def graph_seconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Median seconds of one of the calls, each on operands of its own, run one after the other by a CUDA graph."""
    for call in calls:
        call()
    rounds = 1
    seconds = _replay_seconds(calls, rounds, 3)
    rounds = max(1, min(int(GRAPH_SECONDS / (seconds * len(calls))), MOST_CALLS // len(calls)))
    return _replay_seconds(calls, rounds, REPLAYS)


def _replay_seconds(calls: Sequence[Callable[[], Any]], rounds: int, replays: int) -> float:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(rounds):
            for call in calls:
                call()
    graph.replay()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in pairwise(marks)) / (1e3 * rounds * len(calls))


def queued_seconds(call: Callable[[], Any], wait: Callable[[Any], Any], operations: int) -> float:
    """Median seconds of one of the ``operations`` of a call, many calls being queued before the GPU is waited for.

    For libraries whose work a CUDA graph of ours cannot hold. Operations shorter than their launch show that launch.
    """
    wait(call())
    samples = []
    for _ in range(5):
        start = time.perf_counter()
        results = [call() for _ in range(4)]
        wait(results)
        samples.append((time.perf_counter() - start) / (4 * operations))
    return median(samples)


def extra_bytes(call: Callable[[], torch.Tensor]) -> int:
    """Peak GPU memory of torch during a call beyond what was there before and its result."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    return max(0, torch.cuda.max_memory_allocated() - before - result.nbytes)


def _matrix_rate(dtype: torch.dtype) -> float:
    a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE, device="cuda").to(dtype) for _ in range(2))
    with tf32_products(True):
        seconds = graph_seconds([lambda: a @ b])
    return 2 * GEMM_SIZE**3 / seconds


def _copy_rate() -> float:
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    # Not by copy_: a graph gives that to a slower engine, and a ceiling of 2.4 instead of 3.0 TB/s flatters everyone.
    return 2 * COPY_BYTES / graph_seconds([lambda: torch.neg(source, out=target)])
