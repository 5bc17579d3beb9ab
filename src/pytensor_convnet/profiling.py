"""What a GPU does while a network learns: how much of the time it is busy, with what, and what is copied to and fro.

Torch's profiler records some steps as a trace, which chrome://tracing and https://ui.perfetto.dev show; the figures
here are made of the same trace.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

WARM_UP = 10
"""How many steps go before those that are recorded."""

STEPS = 30
"""How many steps are recorded."""

KERNEL = "kernel"
COPY = "gpu_memcpy"
FILL = "gpu_memset"
OPERATOR = "cpu_op"


@dataclass(frozen=True)
class Share:
    """A kernel's part in the time of a step.

    Attributes
    ----------
    name : str
    microseconds : float
        In a step, on average.
    calls : float
        In a step, on average.
    share : float
        Of the time that all kernels take.
    """

    name: str
    microseconds: float
    calls: float
    share: float


@dataclass(frozen=True)
class Profile:
    """What was recorded.

    Attributes
    ----------
    steps : int
        How many.
    busy : float or None
        The share of the time, from the first kernel's beginning to the last one's end, in which the GPU did anything;
        None if there is no GPU.
    microseconds : float
        The time of a step, on average.
    bytes_to_device, bytes_to_host : float
        Copied in a step, on average.
    kernels : sequence of Share
        Those that take most time first. Without a GPU, torch's operators.
    """

    steps: int
    busy: float | None
    microseconds: float
    bytes_to_device: float
    bytes_to_host: float
    kernels: Sequence[Share]


class StepProfiler:
    """Records some steps of a training, once they run as all later ones do.

    Parameters
    ----------
    file : path
        Where the trace is written, as JSON.
    device : str or None
        The GPU, by torch's name for it; None to record the CPU alone.
    steps, warm_up : int
        How many steps are recorded, and how many go before them.

    Attributes
    ----------
    profile : Profile or None
        What was recorded; None as long as nothing was.
    """

    def __init__(self, file: Path | str, device: str | None, steps: int = STEPS, warm_up: int = WARM_UP) -> None:
        self.file = Path(file)
        self.device = device
        self.steps = steps
        self.warm_up = warm_up
        self.seen = 0
        self.recorded = 0
        self.recorder: Any = None
        self.profile: Profile | None = None

    def watch(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items, each of which makes a step; steps are recorded when enough have gone before.

        Parameters
        ----------
        items : generator
            Closed in the end. With it a recording ends, though it may have fewer steps than it should.

        Yields
        ------
        item
        """
        try:
            with closing(items):  # type: ignore[type-var]
                for item in items:
                    if self.recorder is None and self.profile is None and self.seen >= self.warm_up:
                        self._begin()
                    elif self.recorder is not None and self.recorded == self.steps:
                        self._end()
                    self.seen += 1
                    self.recorded += self.recorder is not None
                    yield item
        finally:
            if self.recorder is not None:
                self._end()

    def _begin(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._wait()
        activities = [ProfilerActivity.CPU] + ([] if self.device is None else [ProfilerActivity.CUDA])
        self.recorder = profile(activities=activities)
        self.recorder.start()

    def _end(self) -> None:
        self._wait()
        self.recorder.stop()
        self.recorder.export_chrome_trace(str(self.file))
        self.recorder = None
        trace = json.loads(self.file.read_text(encoding="utf-8"))
        self.profile = profile_of(trace["traceEvents"], self.recorded)

    def _wait(self) -> None:
        """Let the GPU come to an end of what it was given: a recording holds whole steps."""
        if self.device is not None:
            import torch

            torch.cuda.synchronize(self.device)


def profile_of(events: Iterable[Mapping[str, Any]], steps: int) -> Profile:
    """The figures of a trace.

    Parameters
    ----------
    events : iterable of mappings
        The ``traceEvents`` of a Chrome trace, as torch's profiler writes them: ``cat`` is their kind, ``ts`` when they
        began and ``dur`` how long they took, in microseconds.
    steps : int
        How many steps the trace holds.

    Returns
    -------
    Profile

    Examples
    --------
    >>> copy = {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "ts": 0.0, "dur": 1.0}
    >>> kernel = {"ph": "X", "cat": "kernel", "name": "conv", "ts": 2.0, "dur": 2.0}
    >>> profile = profile_of([copy | {"args": {"bytes": 64}}, kernel], steps=1)
    >>> profile.busy, profile.bytes_to_device, profile.kernels[0].name
    (0.75, 64.0, 'conv')
    """
    whole = [event for event in events if event.get("ph") == "X"]
    on_gpu = [event for event in whole if event.get("cat") in (KERNEL, COPY, FILL)]
    timed = on_gpu or outermost([event for event in whole if event.get("cat") == OPERATOR])
    span = max((_end_of(event) for event in timed), default=0) - min((event["ts"] for event in timed), default=0)
    copies = [event for event in on_gpu if event["cat"] == COPY]
    return Profile(
        steps,
        busy_time(on_gpu) / span if on_gpu else None,
        span / steps,
        _bytes(copies, "HtoD") / steps,
        _bytes(copies, "DtoH") / steps,
        shares([event for event in timed if event["cat"] in (KERNEL, OPERATOR)], steps),
    )


def busy_time(events: Iterable[Mapping[str, Any]]) -> float:
    """How long at least one of ``events`` was going on.

    Examples
    --------
    >>> busy_time([{"ts": 0, "dur": 3}, {"ts": 1, "dur": 4}, {"ts": 7, "dur": 1}])
    6.0
    """
    busy, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event["ts"]):
        busy += max(0, _end_of(event) - max(event["ts"], until))
        until = max(until, _end_of(event))
    return busy


def outermost(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of ``events`` that lie within no other of their thread.

    Examples
    --------
    >>> outermost([{"tid": 1, "ts": 1, "dur": 1}, {"tid": 1, "ts": 0, "dur": 9}, {"tid": 2, "ts": 1, "dur": 1}])
    [{'tid': 1, 'ts': 0, 'dur': 9}, {'tid': 2, 'ts': 1, 'dur': 1}]
    """
    found: list[Mapping[str, Any]] = []
    for event in sorted(events, key=lambda event: (event["tid"], event["ts"], -event["dur"])):
        if not found or event["tid"] != found[-1]["tid"] or event["ts"] >= _end_of(found[-1]):
            found.append(event)
    return found


def shares(events: Iterable[Mapping[str, Any]], steps: int) -> list[Share]:
    """Time and calls of each name, those that take most time first."""
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        times[event["name"]] += event["dur"]
        calls[event["name"]] += 1
    total = sum(times.values())
    return [Share(name, time / steps, calls[name] / steps, time / total) for name, time in times.most_common()]


def _end_of(event: Mapping[str, Any]) -> float:
    return event["ts"] + event["dur"]


def _bytes(copies: Iterable[Mapping[str, Any]], direction: str) -> float:
    return sum(copy.get("args", {}).get("bytes", 0) for copy in copies if direction in copy["name"])
