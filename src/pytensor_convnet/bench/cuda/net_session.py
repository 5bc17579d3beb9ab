"""A run of the networks on a GPU, from the names of cases and peers to tables and JSON."""

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pytensor_convnet.bench import records as records_module
from pytensor_convnet.bench.cuda.net import PRECISIONS, Implementation, Ours, Steps, Training, resident_data
from pytensor_convnet.bench.cuda.net_jax import Jax
from pytensor_convnet.bench.cuda.net_table import first_steps_table, loss_lines, standing_lines, steps_table
from pytensor_convnet.bench.cuda.net_torch import (
    TorchCaptured,
    TorchCompiled,
    TorchEager,
    exact_losses,
    forget_compiled,
)
from pytensor_convnet.bench.cuda.session import package_versions
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.nets import GPU_NET
from pytensor_convnet.bench.records import Record
from pytensor_convnet.bench.suite import relative_error

Key = TypeVar("Key", bound=Hashable)

PEERS: dict[str, tuple[type[Implementation], ...]] = {
    "torch": (TorchEager, TorchCompiled, TorchCaptured),
    "jax": (Jax,),
}
"""The ways in which a package is measured."""

COMPARED_STEPS = [0, 1] * 5
"""The minibatches of the steps whose losses are compared. They come again, so what was learnt from them shows."""

TURN_SECONDS = 0.1
TURNS = 7
WARM_UP_SHARE = 10
"""A turn begins with one uncounted step in so many."""

Report = Callable[[str], object]


def run_benchmark(
    console: Console, cases: Sequence[str], peers: Sequence[str], json: Path | None = None
) -> list[Record]:
    """Measure steps of training on the GPU, and show what was found.

    Parameters
    ----------
    console : rich Console
        Gets a progress bar, or a line for each thing begun where it is no terminal; then tables, and what could not
        be measured and why.
    cases : names of `GPU_NET`
    peers : sequence of {'torch', 'jax'}
        Those that are not installed are left out.
    json : path, optional
        Where records go, after each case in each precision.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    present = tuple(peer for peer in peers if find_spec(peer))
    for peer in peers:
        if peer not in present:
            say(f"not measured, for it is not installed: {peer} (pip install {peer})")
    implementations = [Ours(), *(kind() for peer in present for kind in PEERS[peer])]
    machine = GpuMachine.measured(package_versions(present))
    records: list[Record] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(cases) * len(PRECISIONS))

        def on_begin(what: str) -> None:
            progress.update(task, description=what)
            if not console.is_terminal:
                say(what)

        try:
            for case in cases:
                data = resident_data(GPU_NET[case])
                for precision in PRECISIONS:
                    training = Training(GPU_NET[case], precision, data)
                    records += measured(training, implementations, on_begin, say)
                    progress.advance(task)
                    if json is not None:
                        records_module.write(json, machine, records)
        except KeyboardInterrupt:
            say("interrupted; what is known by now:")
    for precision in PRECISIONS:
        console.print(steps_table(records, precision))
        for line in (*standing_lines(records, precision), *loss_lines(records, precision)):
            say(line)
    console.print(first_steps_table(records))
    return records


def measured(
    training: Training, implementations: Sequence[Implementation], on_begin: Report, on_failure: Report
) -> Iterator[Record]:
    """The records of one case in one precision: for each implementation in each layout a step, and the first steps.

    An implementation that cannot do it is reported and left out.
    """
    described = f"{training.case.name}, {training.precision}"
    on_begin(f"{described}: exact losses")
    exact = exact_losses(training, COMPARED_STEPS)
    built: dict[tuple[str, str], Steps] = {}
    first_seconds, errors = {}, {}
    for implementation in implementations:
        for layout in implementation.layouts:
            key = implementation.name, layout
            on_begin(f"{described}: {implementation.name}, {layout}")
            try:
                built[key], losses, first_seconds[key] = _begun(implementation, training, layout)
            except Exception as error:  # whatever it is, the others are measured all the same
                built.pop(key, None)
                on_failure(f"not measured: {described}: {' '.join(key)}: {type(error).__name__}: {_first_line(error)}")
            else:
                errors[key] = relative_error(losses, exact)
    on_begin(f"{described}: timing")
    seconds = step_seconds(built, training.minibatches, TURN_SECONDS, TURNS)
    built.clear()
    _free_memory(training)
    for key in seconds:
        yield _record(training, key, "step", seconds[key], errors[key])
        yield _record(training, key, "first_steps", first_seconds[key], None)


def _begun(implementation: Implementation, training: Training, layout: str) -> tuple[Steps, np.ndarray, float]:
    """A training, the losses of its first steps, and the seconds until these were known.

    By then all is compiled; some compile, or capture, at the second step or the third.
    """
    start = time.perf_counter()
    steps = implementation.steps(training, layout)
    with steps.settings():
        losses = np.array([float(steps.step(number)) for number in COMPARED_STEPS])
    seconds = time.perf_counter() - start
    if not np.isfinite(losses).all():
        raise ArithmeticError(f"the losses of its first steps are {losses}")
    return steps, losses, seconds


def step_seconds(trainings: Mapping[Key, Steps], minibatches: int, turn_seconds: float, turns: int) -> dict[Key, float]:
    """Median seconds of a step: the time on the clock of many steps in a row, none of whose losses is read.

    Parameters
    ----------
    trainings : mapping of key to Steps
        They take turns.
    minibatches : int
        How many the data set has; steps take one after the other, over and over.
    turn_seconds : float
        About how long a turn is.
    turns : int

    Returns
    -------
    dict of key to float
    """
    numbers = {key: (number % minibatches for number in count()) for key in trainings}
    lengths = {}
    for key, steps in trainings.items():
        _seconds_of_steps(steps, numbers[key], 3)
        lengths[key] = max(1, round(turn_seconds / _seconds_of_steps(steps, numbers[key], 10)))
    samples: dict[Key, list[float]] = {key: [] for key in trainings}
    for _ in range(turns):
        for key, steps in trainings.items():
            _seconds_of_steps(steps, numbers[key], 1 + lengths[key] // WARM_UP_SHARE)
            samples[key].append(_seconds_of_steps(steps, numbers[key], lengths[key]))
    return {key: median(values) for key, values in samples.items()}


def _seconds_of_steps(steps: Steps, numbers: Iterator[int], length: int) -> float:
    with steps.settings():
        steps.wait()
        start = time.perf_counter()
        for _ in range(length):
            steps.step(next(numbers))
        steps.wait()
        return (time.perf_counter() - start) / length


def _free_memory(training: Training) -> None:
    """Let the next case have the GPU's memory."""
    forget_compiled()
    gc.collect()
    if training.device == "cuda":
        torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _record(training: Training, key: tuple[str, str], operation: str, seconds: float, error: Any) -> Record:
    return Record(
        suite="net",
        case=training.case.name,
        operation=operation,
        device=training.device,
        dtype=training.dtype,
        precision=training.precision,
        implementation=key[0],
        layout=key[1],
        seconds=seconds,
        floor_seconds=None,
        relative_error=error,
        extra_bytes=None,
    )
