"""Our kernels as one operator of torch, ``pytensor_convnet::kernels``, that its compiler leaves as it is.

What is called and what comes out is said in a string: the names of kernels, their arguments, and shape, dtype and
physical format of each result. So the compiler knows all it must without running a kernel, and a graph that it
keeps on disk means the same in every process.

Several calls at once run side by side, each on a stream of its own: at small batches no kernel fills a GPU alone.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.kernels import cuda as kernel_functions
from pytensor_convnet.kernels.cuda.formats import empty
from pytensor_convnet.lowering.cuda.linear import summed_products

OF_TORCH = {"mm": torch.mm, "summed_products": summed_products}
"""What may be called beside our kernels."""

Result = tuple[Sequence[int], torch.dtype, str]
"""Shape, dtype and physical format."""


@dataclass(frozen=True)
class KernelCall:
    """A kernel to be called.

    Attributes
    ----------
    name : str
        Its name among `kernels.cuda`, or `OF_TORCH`.
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
    joined = _both_gradients(calls)
    asked = joined if joined is not None else calls
    tensors = [tensor for one in asked for tensor in one.tensors]
    results = iter(kernels(tensors, json.dumps([one.said() for one in asked])))
    found = [[next(results) for _ in one.results] for one in asked]
    if joined is not None:
        [of_images, of_filters], *others = found
        gradients = {_INPUT_GRAD: [of_images], _FILTER_GRAD: [of_filters]}
        rest = iter(others)
        found = [gradients.get(one.name) or next(rest) for one in calls]
    return [one.finish(first) for one, (first, *_) in zip(calls, found)]


_INPUT_GRAD, _FILTER_GRAD = "correlate2d_max_pool2d_input_grad", "correlate2d_max_pool2d_filter_grad"


def _both_gradients(calls: Sequence[KernelCall]) -> list[KernelCall] | None:
    """The calls with the two gradients of a pooled correlation as one, the first, if both are among them once.

    Pooled gradients are then spread over the maps once for the two.
    """
    of_images, of_filters = ([one for one in calls if one.name == name] for name in (_INPUT_GRAD, _FILTER_GRAD))
    if len(of_images) != 1 or len(of_filters) != 1:
        return None
    [one], [other] = of_images, of_filters
    filters, *pooled = one.tensors
    images, *same = other.tensors
    if any(a is not b for a, b in zip(pooled, same)) or one.arguments[2:] != other.arguments[2:]:
        return None
    both = KernelCall(
        "correlate2d_max_pool2d_grads", [images, filters, *pooled], one.arguments[2:], [*one.results, *other.results],
        one.keywords,
    )  # fmt: skip
    return [both, *(call for call in calls if call is not one and call is not other)]


@custom_op("pytensor_convnet::kernels", mutates_args=())
def kernels(tensors: list[Tensor], said: str) -> list[Tensor]:
    """The results of kernels; see `call`."""
    calls = _understood(said)
    given = iter(tensors)
    found: list[Tensor] = []
    with _streams(tensors[0].device, len(calls)) as streams:
        for stream, (name, count, named, arguments, keywords, _) in zip(streams, calls):
            first = [next(given) for _ in range(count - len(named))]
            last = {argument: next(given) for argument in named}
            with torch.cuda.stream(stream):  # nothing where there is none
                function = OF_TORCH.get(name) or getattr(kernel_functions, name)
                result = function(*first, *arguments, **last, **keywords)
            found.extend(result if isinstance(result, tuple) else (result,))
    return found


@kernels.register_fake
def _(tensors: list[Tensor], said: str) -> list[Tensor]:
    device = tensors[0].device
    return [
        empty(shape, format, dtype, device) if len(shape) == 4 else torch.empty(shape, dtype=dtype, device=device)
        for *_, results in _understood(said)
        for shape, dtype, format in results
    ]


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
def _understood(said: str) -> list[tuple[str, int, list[str], Any, dict[str, Any], Any]]:
    return [
        (name, count, named, _restored(arguments), keywords, _restored(results))
        for name, count, named, arguments, keywords, results in json.loads(said)
    ]


def _restored(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again; the names of dtypes as dtypes."""
    if isinstance(value, list):
        return tuple(_restored(entry) for entry in value)
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value.removeprefix("torch."))
    return value
