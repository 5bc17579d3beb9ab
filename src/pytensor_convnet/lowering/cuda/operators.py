"""Our kernels as one operator of torch, ``pytensor_convnet::kernels``, that its compiler leaves as it is.

What is called and what comes out is said in a string: the names of kernels, their arguments, and shape, dtype and
physical format of each result. So the compiler knows all it must without running a kernel, and a graph that it
keeps on disk means the same in every process.

Several calls at once run side by side, each on a stream of its own: at small batches no kernel fills a GPU alone.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.kernels.cuda.compiling_ahead import Operand, described
from pytensor_convnet.kernels.cuda.formats import empty
from pytensor_convnet.kernels.cuda.tuning_ahead import Call

Result = tuple[Sequence[int], torch.dtype, str]
"""Shape, dtype and physical format."""


@dataclass(frozen=True)
class KernelCall:
    """A kernel to be called.

    Attributes
    ----------
    name : str
        Its name among `kernels.cuda`.
    tensors : list of tensor
        Its first arguments.
    arguments, keywords : sequence, dict
        Its other arguments: numbers, strings, and tuples of them; dtypes by name, as ``'torch.uint8'``.
    results : list of (shape, dtype, format)
        Of tensors that are not bc01 the format says nothing.
    named : sequence of str
        The names of the last tensors, where they are not among the first arguments.
    finish : callable
        From the first result to what the call gives.
    """

    name: str
    tensors: list[Tensor]
    arguments: Sequence[Any]
    results: list[Result]
    keywords: dict[str, Any] = field(default_factory=dict)
    named: Sequence[str] = ()
    finish: Callable[[Tensor], Tensor] = lambda result: result

    def said(self) -> list[Any]:
        described = [(list(shape), str(dtype), format) for shape, dtype, format in self.results]
        return [self.name, len(self.tensors), list(self.named), list(self.arguments), self.keywords, described]


def call(kernel_call: KernelCall) -> list[Tensor]:
    """All results of a kernel."""
    return kernels(kernel_call.tensors, json.dumps([kernel_call.said()]))


def call_together(calls: Sequence[KernelCall]) -> list[Tensor]:
    """What each of several calls gives, computed side by side."""
    if not calls:
        return []
    asked = _joined(calls)
    tensors = [tensor for one, _ in asked for tensor in one.tensors]
    results = iter(kernels(tensors, json.dumps([one.said() for one, _ in asked])))
    found: dict[int, Tensor] = {}
    for one, places in asked:
        found.update(zip(places, [next(results) for _ in one.results]))
    return [one.finish(found[place]) for place, one in enumerate(calls)]


def _joined(calls: Sequence[KernelCall]) -> list[tuple[KernelCall, tuple[int, ...]]]:
    """The calls to be made, each with the places of those whose first results it gives.

    The two gradients of a correlation, pooled or not, are one call, as they share what they read. Such calls are first.
    Maps may have a ``_bound``, a tensor and a factor, as `correlate2d_grads` takes them.
    """
    joined: list[tuple[KernelCall, tuple[int, ...]]] = []
    alone = dict(enumerate(calls))
    for place, one in enumerate(calls):
        for other_place, other in alone.items():
            both = _both_gradients(one, other)
            if both is not None:
                joined.append((both, (place, other_place)))
                del alone[place], alone[other_place]
                break
    return joined + [(one, (place,)) for place, one in alone.items()]


def _both_gradients(one: KernelCall, other: KernelCall) -> KernelCall | None:
    """The call for both gradients, where one is that for images and the other that for filters of one correlation."""
    name = one.name.removesuffix("_input_grad")
    if name == one.name or other.name != f"{name}_filter_grad":
        return None
    filters, *maps = one.tensors
    images, *same = other.tensors
    shapes = [shape for shape, _, _ in (*one.results, *other.results)]
    fit = [tuple(tensor.shape) for tensor in (images, filters)] == [tuple(shape) for shape in shapes]
    if not fit or any(a is not b for a, b in zip(maps, same)) or one.arguments[2:] != other.arguments[2:]:
        return None
    results = [*one.results, *other.results]
    both = KernelCall(f"{name}_grads", [images, filters, *maps], one.arguments[2:], results, one.keywords)
    bound = getattr(maps[0], "_bound", None) if name == "correlate2d" else None
    if bound is None:
        return both
    tensor, factor = bound
    return replace(
        both, tensors=[*both.tensors, tensor], named=["searched"], keywords={**both.keywords, "factor": factor}
    )


@custom_op("pytensor_convnet::kernels", mutates_args=())
def kernels(tensors: list[Tensor], said: str) -> list[Tensor]:
    """The results of kernels; see `call`."""
    calls = _understood(said)
    given = iter(tensors)
    found: list[Tensor] = []
    with _streams(tensors[0].device, len(calls)) as streams:
        for stream, (call, count, _) in zip(streams, calls):
            with torch.cuda.stream(stream):  # nothing where there is none
                result = call.run(*itertools.islice(given, count))
            found.extend(result if isinstance(result, tuple) else (result,))
    return found


@kernels.register_fake
def _(tensors: list[Tensor], said: str) -> list[Tensor]:
    calls, device, given = _called.get(), tensors[0].device, iter(tensors)
    if calls is not None:
        calls += [(call, described(list(itertools.islice(given, count)))) for call, count, _ in _understood(said)]
    return [
        empty(shape, format, dtype, device) if len(shape) == 4 else torch.empty(shape, dtype=dtype, device=device)
        for *_, results in _understood(said)
        for shape, dtype, format in results
    ]


_called: ContextVar[list[tuple[Call, tuple[Operand, ...]]] | None] = ContextVar("called", default=None)


@contextmanager
def calls_noted() -> Iterator[list[tuple[Call, tuple[Operand, ...]]]]:
    """A list that gets what is called on fake tensors within."""
    calls: list[tuple[Call, tuple[Operand, ...]]] = []
    token = _called.set(calls)
    try:
        yield calls
    finally:
        _called.reset(token)


@contextmanager
def _streams(device: torch.device, count: int) -> Any:
    """A stream for each of several calls while a graph is captured; else the present one for all, None without a GPU.

    All begin when the present stream has come here, and it goes on when all have ended.
    """
    if device.type != "cuda":
        yield [None] * count
        return
    present = torch.cuda.current_stream(device)
    if count == 1 or not torch.cuda.is_current_stream_capturing():
        yield [present] * count
        return
    others = _other_streams(device, count - 1)
    for stream in others:
        stream.wait_stream(present)
    yield [present, *others]
    for stream in others:
        present.wait_stream(stream)


@lru_cache(maxsize=64)
def _other_streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(count)]


@lru_cache(maxsize=4096)
def _understood(said: str) -> list[tuple[Call, int, Any]]:
    """Of each call, how many tensors it takes, and its results."""
    return [
        (Call(name, named, _restored(arguments), keywords), count, _restored(results))
        for name, count, named, arguments, keywords, results in json.loads(said)
    ]


def _restored(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again; the names of dtypes as dtypes."""
    if isinstance(value, list):
        return tuple(_restored(entry) for entry in value)
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value.removeprefix("torch."))
    return value
