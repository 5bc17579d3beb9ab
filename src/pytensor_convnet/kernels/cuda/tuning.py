"""The choice of a method by measurement: each task once for a GPU, remembered in memory and on disk.

Candidates are timed (`measuring`), and the best is kept. What is kept on disk is one small file a task, named by a
digest of everything that a choice depends on: the GPU, the versions of torch, Triton, cuDNN and of these kernels, and
the task. A file is written whole or not at all, one that cannot be read is measured anew, and processes that tune the
same task at once do no harm to each other.

What is left of a data set makes a last minibatch that is smaller: it takes the methods of the others.

``PYTENSOR_CONVNET_DETERMINISTIC=0`` lets cuDNN use algorithms whose results differ in their last bits from run to run.
``PYTENSOR_CONVNET_AUTOTUNE=0`` measures nothing and takes fixed choices. ``PYTENSOR_CONVNET_TUNING_CACHE`` is the
folder of the files, by default ``pytensor-convnet/tuning`` in the user's cache folder.
"""

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import torch
import triton

from pytensor_convnet.kernels.cuda.candidates import candidates
from pytensor_convnet.kernels.cuda.carrying_out import carry_out
from pytensor_convnet.kernels.cuda.compiling_ahead import forget_plans, note, start_processes
from pytensor_convnet.kernels.cuda.cudnn import is_deterministic
from pytensor_convnet.kernels.cuda.disk_caches import file_of, folder_of, keep
from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.formats import UNIT
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.measuring import seconds_of
from pytensor_convnet.kernels.cuda.methods import (
    Cudnn,
    Gather,
    Method,
    Share,
    SlidingShare,
    Task,
    Unrolled,
    Window,
    WindowShare,
)
from pytensor_convnet.kernels.cuda.runtime_compiler import can_compile
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks
from pytensor_convnet.kernels.cuda.window_kernel import WindowBlocks
from pytensor_convnet.kernels.sources import digest_of

CANDIDATES = 12
"""How many of our own methods are measured."""

MANY_CHANNELS = 64

SOURCES = tuple(sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in (".py", ".cu")))
"""Of the kernels that choices are among."""


@dataclass(frozen=True)
class Family:
    """How tasks of a kind may be computed.

    Attributes
    ----------
    candidates : function of a task and a limit
        The methods worth measuring, at most so many of our own.
    fixed_choice : function of a task
        What is taken without measurements.
    carry_out : function of a task, a method and operands
    classes : tuple of types
        What methods are made of, to be read from disk.
    """

    candidates: Callable[[Any, int], list[Any]]
    fixed_choice: Callable[[Any], Any]
    carry_out: Callable[..., Any]
    classes: tuple[type, ...]


_families: dict[type, Family] = {}
_classes: dict[str, Any] = {}
_chosen: dict[Task, Any] = {}
_of_smaller: dict[Task, Any] = {}  # batches, that took the method of larger ones
_lock = threading.RLock()
_foreseen: ContextVar[list[Callable[[], None]] | None] = ContextVar("foreseen", default=None)


def register(kind: type, family: Family) -> None:
    """Let tasks of this kind be chosen for as the family says."""
    _families[kind] = family
    _classes.update({cls.__name__: cls for cls in family.classes})


def choose(task: Task, operands: tuple[torch.Tensor, ...]) -> Any:
    """The method for a task, measured on these operands where it is not known yet.

    While a CUDA graph is being captured nothing can be measured: a fixed choice is taken, and not kept.
    """
    method = _chosen.get(task) or _of_smaller.get(task)
    if method is not None:
        return method
    if task.device.type == "meta":
        note(task, operands)
    if task.device.type != "cuda" or not is_tuned():
        return fixed_choice(task)
    with _lock:
        method = known_choice(task)
        if method is None and (larger := _of_larger_batch(task)) is not None:
            _of_smaller[task] = larger
            return larger
        if method is None:
            nothing = any(not operand.numel() for operand in operands)
            if nothing or torch.cuda.is_current_stream_capturing():
                return fixed_choice(task)
            _begin_foreseen()
            found = best_method(task, operands)
            if found is None:  # and let the caller see why
                return fixed_choice(task)
            method, seconds = found
            _store(task, method, seconds)
        _chosen[task] = method
    return method


def is_tuned() -> bool:
    """Whether anything is measured at all."""
    return os.environ.get("PYTENSOR_CONVNET_AUTOTUNE", "1") != "0"


def known_choice(task: Task) -> Any:
    """What was measured for a task before, by this process or another; None where it was not."""
    return _chosen.get(task) or _load(task)


@contextmanager
def foreseeing(begin: Callable[[], None]) -> Iterator[None]:
    """Let ``begin`` be called before the first measurement within, if any is made.

    It may begin to compile what will be chosen among later.
    """
    foreseen = [begin]
    token = _foreseen.set(foreseen)
    try:
        yield
    finally:
        _foreseen.reset(token)
        if not foreseen:
            forget_plans()


def _begin_foreseen() -> None:
    foreseen = _foreseen.get()
    while foreseen:
        foreseen.pop()()


def is_open(task: Task) -> bool:
    """Whether the choice for a task has to be measured."""
    return known_choice(task) is None and _of_larger_batch(task) is None


def _of_larger_batch(task: Task) -> Any:
    """What this process chose for a batch that is larger, up to twice, and as well aligned; None where it did not."""
    batch = task.geometry.images[0]
    for other, method in _chosen.items():
        more = other.geometry.images[0]
        if batch < more <= 2 * batch and gcd(batch, UNIT) == gcd(more, UNIT) and _with_batch(other, batch) == task:
            return method
    return None


def _with_batch(task: Task, batch: int) -> Task:
    images = batch, *task.geometry.images[1:]
    return dataclasses.replace(task, geometry=dataclasses.replace(task.geometry, images=images))


@functools.lru_cache(maxsize=4096)
def fixed_choice(task: Task) -> Any:
    """What is taken without measurements."""
    return family_of(task).fixed_choice(task)


def family_of(task: Task) -> Family:
    """How tasks of its kind may be computed."""
    return _families[type(task)]


def _fixed_correlation(task: Task) -> Method:
    """cuDNN where channels are many and it need not change formats, else ours."""
    filters, channels = task.geometry.filters[:2]
    wanted = set(task.formats)
    many = min(filters // task.geometry.groups, channels) >= MANY_CHANNELS
    if task.device.type == "cuda" and many and "batch_last" not in wanted:
        return Cudnn(task.formats[0])
    return candidates(task, 1)[0]


def prepare() -> None:
    """Start the processes that compile candidates, where nothing was measured yet: they take seconds to start."""
    if is_tuned() and not any(cache_folder().glob("*.json")):
        start_processes()


def forget() -> None:
    """Forget all choices of this process; what is on disk stays."""
    _chosen.clear()
    _of_smaller.clear()


# ------------------------------------------------------------------------------------------ measurement


def measured(task: Task, operands: tuple[torch.Tensor, ...]) -> dict[Any, float]:
    """Seconds of each candidate that works; those close to the best more exactly than the others."""
    family = family_of(task)
    return seconds_of(family.carry_out, task, family.candidates(task, CANDIDATES), operands)


def best_method(task: Task, operands: tuple[torch.Tensor, ...]) -> tuple[Any, float] | None:
    """The fastest candidate, and its seconds; None where none works (there may be no memory left)."""
    seconds = measured(task, operands)
    if not seconds:
        return None
    method = min(seconds, key=lambda candidate: seconds[candidate])
    return method, seconds[method]


# ------------------------------------------------------------------------------------------------- disk


def cache_folder() -> Path:
    """Where choices are kept."""
    return folder_of("PYTENSOR_CONVNET_TUNING_CACHE", "tuning")


def _key(task: Task) -> str:
    facts = {
        "gpu": torch.cuda.get_device_name(task.device),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "kernels": digest_of(*SOURCES),
        "deterministic": is_deterministic(),
        "compiles": can_compile(task.device),
        "task": dataclasses.asdict(task) | {"device": task.device.type},
    }
    return json.dumps(facts, sort_keys=True, default=str)


def _file(key: str) -> Path:
    return file_of(cache_folder(), key, ".json")


def _load(task: Task) -> Any:
    """What is on disk for a task, or None where nothing that can be read is."""
    key = _key(task)
    try:
        content = json.loads(_file(key).read_text())
        return method_from_json(content["method"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(task: Task, method: Any, seconds: float) -> None:
    """Keep a choice on disk; where the disk refuses, it is kept in memory alone."""
    key = _key(task)
    content = json.dumps({"key": key, "method": method_to_json(method), "seconds": seconds})
    keep(_file(key), content.encode())


def method_to_json(method: Any) -> Any:
    """A method as JSON holds it."""
    if not dataclasses.is_dataclass(method):
        return method
    fields = {field.name: method_to_json(getattr(method, field.name)) for field in dataclasses.fields(method)}
    return {"kind": type(method).__name__, **fields}


def method_from_json(content: Any) -> Any:
    """The method that `method_to_json` made this of; KeyError or TypeError where it did not."""
    if isinstance(content, list):
        return tuple(map(method_from_json, content))
    if not isinstance(content, dict):
        return content
    fields = {name: method_from_json(value) for name, value in content.items()}
    return _classes[fields.pop("kind")](**fields)


register(
    Task,
    Family(
        candidates,
        _fixed_correlation,
        carry_out,
        (
            Cudnn,
            Gather,
            Window,
            Share,
            SlidingShare,
            WindowShare,
            Unrolled,
            Blocks,
            WindowBlocks,
            GradBlocks,
            SlidingBlocks,
            WindowGradBlocks,
        ),
    ),
)
