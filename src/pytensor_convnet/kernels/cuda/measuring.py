"""Seconds of the methods of a task, measured on the GPU.

Candidates are compiled side by side (`compiling_ahead`), tried once each, and timed as CUDA graphs, so that launching
them from Python costs nothing: all of them at first sight, and those close to the best again, in turns. Where operands
are not small these turns go through copies of them, more than the second-level cache holds: a large layer finds little
of what it reads there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice, pairwise
from math import inf
from statistics import median
from typing import Any

import torch
import triton

from pytensor_convnet.kernels.cuda.compiling_ahead import await_all, compile_ahead
from pytensor_convnet.kernels.cuda.methods import Composed, ours
from pytensor_convnet.kernels.cuda.streams import awaited

LOOKS = 3
"""At first sight each is timed so often, in turns: a GPU that idled while kernels were compiled is slow at first."""

CLOSE = 1.3
"""Methods within this factor of the best, at first sight, are timed again, in turns."""

MOST_CLOSE = 6
"""The best so many of them, each of which keeps a graph in memory meanwhile."""

TURNS = 9
"""How often each of them is timed."""

GRAPH_SECONDS, MOST_CALLS = 2e-4, 10
"""Then a graph holds so many calls that its own launch, some microseconds, does not count."""

SMALL = 1 / 8
"""Of operands of less than this part of the second-level cache the caller may well find all there."""

Call = Callable[[], Any]


class GpuStopped(RuntimeError):
    """Nothing runs on the GPU any more, until the process ends."""


def seconds_of(
    carry_out: Callable[..., Any], task: Any, methods: Sequence[Any], operands: tuple[torch.Tensor, ...]
) -> dict[Any, float]:
    """Seconds of each method that works; those `CLOSE` to the best more exactly than the others."""
    usable = _usable(carry_out, task, methods, operands)
    calls = {method: partial(carry_out, task, method, *operands) for method in usable}
    seconds: dict[Any, float] = {}
    for method in usable * LOOKS:
        seconds[method] = min(seconds.get(method, inf), _seconds(_captured([calls[method]]), 2, 1))
    best = min(seconds.values(), default=GRAPH_SECONDS)
    close = sorted((method for method in seconds if seconds[method] <= CLOSE * best), key=seconds.__getitem__)
    sets = _sets(operands)
    times = max(len(sets), min(MOST_CALLS, int(GRAPH_SECONDS / best)))
    graphs = {}
    for method in close[:MOST_CLOSE]:
        turns = [partial(carry_out, task, method, *set_) for set_ in sets]
        try:
            graphs[method] = _captured([*islice(cycle(turns), times)])
        except torch.cuda.OutOfMemoryError:  # all of them at once may be too many
            break
    rounds = [{method: _seconds(graph, 1, times) for method, graph in graphs.items()} for _ in range(TURNS)]
    timed = {method: median(round[method] for round in rounds) for method in graphs}
    # The others were timed once; none of them is to win by chance.
    slowest = max(timed.values(), default=0.0)
    return {method: max(once, slowest) for method, once in seconds.items()} | timed


def _usable(carry_out: Callable[..., Any], task: Any, methods: Sequence[Any], operands: tuple) -> list[Any]:
    """The methods that work, compiled."""
    own = ours(methods)
    compiling = compile_ahead(carry_out, task, own, operands)
    # cuDNN's own search, and choices that a method waits for, take their time while the others are compiled.
    later = [method for method in own if not isinstance(method, Composed)]
    usable = [method for method in methods if method not in later and _works(carry_out, task, method, operands)]
    await_all(compiling)
    return usable + [method for method in later if _works(carry_out, task, method, operands)]


def _works(carry_out: Callable[..., Any], task: Any, method: Any, operands: Sequence[torch.Tensor]) -> bool:
    """Compile and run a candidate once; False where the GPU has not enough of something for it.

    Raises
    ------
    GpuStopped
        After it (it read where there is no memory, for example).
    """
    try:
        with torch.cuda.device(task.device):
            carry_out(task, method, *operands)
            torch.cuda.synchronize()
    except triton.runtime.errors.OutOfResources:
        return False
    except GpuStopped:  # at a candidate of one of its parts
        raise
    except RuntimeError as error:
        try:
            torch.cuda.synchronize(task.device)
        except RuntimeError:  # who went on would blame another candidate
            raise GpuStopped(f"the GPU stopped at {method}, which was tried for {task}: {error}") from error
        return False
    return True


def _sets(operands: tuple[torch.Tensor, ...]) -> list[tuple[torch.Tensor, ...]]:
    """The operands, and copies that lie in memory as they do: none of small ones, nor of those that no cache holds."""
    cache = torch.cuda.get_device_properties(operands[0].device).L2_cache_size
    nbytes = sum(operand.nbytes for operand in operands)
    count = 1 + int(cache / nbytes) if SMALL * cache <= nbytes else 1
    return [operands, *(tuple(map(_copy, operands)) for _ in range(count - 1))]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.clone()
    return copy if copy.stride() == tensor.stride() else tensor


def _captured(calls: Sequence[Call]) -> Call:
    """These calls as a CUDA graph, after one in which cuDNN finds its algorithm (it does so for each thread)."""
    calls[0]()
    graph = torch.cuda.CUDAGraph()
    here = torch.device("cuda", torch.cuda.current_device())
    with torch.cuda.graph(graph, capture_error_mode="thread_local"), awaited(here):
        for call in calls:
            call()
    return graph.replay


def _seconds(replay: Call, times: int, calls: int) -> float:
    """The median seconds of one of the calls in a graph, after one replay that is not counted."""
    replay()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        replay()
        mark.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in pairwise(marks)) / (1e3 * calls)
