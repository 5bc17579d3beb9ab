"""The choice of a method by measurement: each task once for a GPU, remembered in memory and on disk.

Candidates are compiled side by side, timed as CUDA graphs so that launching them from Python costs nothing, and the
best is kept. What is kept on disk is one small file a task, named by a digest of everything that a choice depends on:
the GPU, the versions of torch, Triton, cuDNN and of these kernels, and the task. A file is written whole or not at
all, one that cannot be read is measured anew, and processes that tune the same task at once do no harm to each other.

``PYTENSOR_CONVNET_DETERMINISTIC=0`` lets cuDNN use algorithms whose results differ in their last bits from run to run.
``PYTENSOR_CONVNET_AUTOTUNE=0`` measures nothing and takes fixed choices. ``PYTENSOR_CONVNET_TUNING_CACHE`` is the
folder of the files, by default ``pytensor-convnet/tuning`` in the user's cache folder.
"""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton

from pytensor_convnet.kernels.cuda.candidates import candidates
from pytensor_convnet.kernels.cuda.cudnn import is_deterministic
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.methods import Cudnn, Gather, Method, Share, Task, carry_out

CANDIDATES = 16
"""How many of our own methods are measured."""

CLOSE = 1.3
"""Methods within this factor of the best, at first sight, are timed again."""

GRAPH_SECONDS, MOST_CALLS = 2e-4, 10
"""Then a graph holds so many calls that its own launch, some microseconds, does not count."""

MANY_CHANNELS = 64

_METHODS: dict[str, Any] = {kind.__name__: kind for kind in (Cudnn, Gather, Share)}
_chosen: dict[Task, Method] = {}
_lock = threading.RLock()


def choose(task: Task, operands: tuple[torch.Tensor, ...]) -> Method:
    """The method for a task, measured on these operands where it is not known yet.

    While a CUDA graph is being captured nothing can be measured: a fixed choice is taken, and not kept.
    """
    method = _chosen.get(task)
    if method is not None:
        return method
    if task.device.type != "cuda" or os.environ.get("PYTENSOR_CONVNET_AUTOTUNE", "1") == "0":
        return fixed_choice(task)
    with _lock:
        method = _chosen.get(task) or _load(task)
        if method is None:
            nothing = any(not operand.numel() for operand in operands)
            if nothing or torch.cuda.is_current_stream_capturing():
                return fixed_choice(task)
            found = best_method(task, operands)
            if found is None:  # and let the caller see why
                return fixed_choice(task)
            method, seconds = found
            _store(task, method, seconds)
        _chosen[task] = method
    return method


def known_choice(task: Task) -> Method | None:
    """What was measured for a task before, by this process or another; None where it was not."""
    return _chosen.get(task) or _load(task)


@functools.lru_cache(maxsize=4096)
def fixed_choice(task: Task) -> Method:
    """What is taken without measurements: cuDNN where channels are many and it need not change formats, else ours."""
    filters, channels = task.geometry.filters[:2]
    wanted = set(task.formats)
    many = min(filters // task.geometry.groups, channels) >= MANY_CHANNELS
    if task.device.type == "cuda" and many and "batch_last" not in wanted:
        return Cudnn(task.formats[0])
    return candidates(task, 1)[0]


def forget() -> None:
    """Forget all choices of this process; what is on disk stays."""
    _chosen.clear()


# ------------------------------------------------------------------------------------------ measurement


def measured(task: Task, operands: tuple[torch.Tensor, ...]) -> dict[Method, float]:
    """Seconds of each candidate that works; the slow ones at first sight, those `CLOSE` to the best more exactly."""
    calls = {method: functools.partial(carry_out, task, method, *operands) for method in candidates(task, CANDIDATES)}
    # cuDNN's settings are global, so it is no part of what is compiled and tried side by side.
    ours = [method for method in calls if not isinstance(method, Cudnn)]
    works = functools.partial(_works, task.device)
    with ThreadPoolExecutor(min(len(ours), os.cpu_count() or 1)) as pool:
        working = dict(zip(ours, pool.map(works, [calls[method] for method in ours])))
    seconds: dict[Method, float] = {}
    for method, call in calls.items():
        if working[method] if method in working else works(call):
            seconds[method] = _seconds(_captured(call, 1), 2, 1)
    best = min(seconds.values(), default=GRAPH_SECONDS)
    calls_of_graph = max(1, min(MOST_CALLS, int(GRAPH_SECONDS / best)))
    for method in [method for method in seconds if seconds[method] <= CLOSE * best]:
        seconds[method] = _seconds(_captured(calls[method], calls_of_graph), 7, calls_of_graph)
    return seconds


def best_method(task: Task, operands: tuple[torch.Tensor, ...]) -> tuple[Method, float] | None:
    """The fastest candidate, and its seconds; None where none works (there may be no memory left)."""
    seconds = measured(task, operands)
    if not seconds:
        return None
    method = min(seconds, key=lambda candidate: seconds[candidate])
    return method, seconds[method]


def _works(device: torch.device, call: Callable[[], torch.Tensor]) -> bool:
    """Compile and run a candidate once; False where the GPU has not enough of something for it."""
    try:
        with torch.cuda.device(device):
            call()
            torch.cuda.synchronize()
    except (RuntimeError, triton.runtime.errors.OutOfResources):
        return False
    return True


def _captured(call: Callable[[], torch.Tensor], times: int) -> Callable[[], None]:
    """So many calls as a CUDA graph, after one in which cuDNN finds its algorithm (it does so for each thread)."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(times):
            call()
    return graph.replay


def _seconds(replay: Callable[[], None], times: int, calls: int) -> float:
    """The median seconds of one of the calls in a graph, after one replay that is not counted."""
    replay()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        replay()
        mark.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in pairwise(marks)) / (1e3 * calls)


# ------------------------------------------------------------------------------------------------- disk


def cache_folder() -> Path:
    """Where choices are kept."""
    named = os.environ.get("PYTENSOR_CONVNET_TUNING_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(caches) / "pytensor-convnet" / "tuning"


@functools.cache
def _kernels_digest() -> str:
    """A digest of the sources of the kernels."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _key(task: Task) -> str:
    facts = {
        "gpu": torch.cuda.get_device_name(task.device),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "kernels": _kernels_digest(),
        "deterministic": is_deterministic(),
        "task": dataclasses.asdict(task) | {"device": task.device.type},
    }
    return json.dumps(facts, sort_keys=True, default=str)


def _file(key: str) -> Path:
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _load(task: Task) -> Method | None:
    """What is on disk for a task, or None where nothing that can be read is."""
    key = _key(task)
    try:
        content = json.loads(_file(key).read_text())
        return method_from_json(content["method"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(task: Task, method: Method, seconds: float) -> None:
    """Keep a choice on disk; where the disk refuses, it is kept in memory alone."""
    key = _key(task)
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as file:
            json.dump({"key": key, "method": method_to_json(method), "seconds": seconds}, file)
        os.replace(file.name, _file(key))
    except OSError:
        return


def method_to_json(method: Method) -> dict[str, Any]:
    """A method as JSON holds it."""
    return {"kind": type(method).__name__, **dataclasses.asdict(method)}


def method_from_json(content: dict[str, Any]) -> Method:
    """The method that `method_to_json` made this of; KeyError or TypeError where it did not."""
    fields = dict(content)
    kind = _METHODS[fields.pop("kind")]
    if "blocks" in fields:
        fields["blocks"] = (Blocks if kind is Gather else GradBlocks)(**fields["blocks"])
    if "patch" in fields:
        rows, columns = fields["patch"]
        fields["patch"] = rows, columns
    return kind(**fields)
