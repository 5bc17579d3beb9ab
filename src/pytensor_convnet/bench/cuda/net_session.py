"""A run of the networks on a GPU, from the names of cases and peers to tables and JSON."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pytensor_convnet.bench.cuda.findings import Findings, present_peers, until_interrupted
from pytensor_convnet.bench.cuda.net import Implementation, Ours, Training, resident_images
from pytensor_convnet.bench.cuda.net_jax import Jax
from pytensor_convnet.bench.cuda.net_table import first_steps_table, loss_lines, standing_lines, steps_table
from pytensor_convnet.bench.cuda.net_torch import (
    TorchCaptured,
    TorchCompiled,
    TorchEager,
    exact_losses,
    free_memory,
)
from pytensor_convnet.bench.cuda.net_trainees import COMPARED_STEPS, Beginning, Trainee, TraineeApart, TraineeFailed
from pytensor_convnet.bench.nets import GPU_NET, NET_PRECISIONS
from pytensor_convnet.bench.records import Record
from pytensor_convnet.bench.suite import relative_error

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
TraineeKey = tuple[str, str]
"""An implementation's name, and a layout."""

PEERS: dict[str, tuple[type[Implementation], ...]] = {
    "torch": (TorchEager, TorchCompiled, TorchCaptured),
    "jax": (Jax,),
}
"""The ways in which a package is measured."""

TURN_SECONDS = 0.1
TURNS = 7
WARM_UP_SHARE = 10
"""A turn begins with one uncounted step in so many."""

Report = Callable[[str], object]


def run_benchmark(
    console: Console,
    cases: Sequence[str],
    peers: Sequence[str],
    json: Path | None = None,
    precisions: Sequence[str] = tuple(NET_PRECISIONS),
) -> list[Record]:
    """Measure steps of training on the GPU, and show what was found.

    Each implementation in each layout has a process of its own, so that none is in another's way.

    Parameters
    ----------
    console : rich Console
        Gets a progress bar, or a line for each thing begun where it is no terminal; then tables, and what could not
        be measured and why.
    cases : names of `GPU_NET`
    peers : sequence of {'torch', 'jax'}
        Those that are not installed are left out.
    json : path, optional
        Where records go, after each case in each precision; see `Findings`.
    precisions : names of `NET_PRECISIONS`

    Raises
    ------
    ValueError
        A precision is none of these.
    InvalidBenchmark
        The file cannot be added to.
    """
    if unknown := [precision for precision in precisions if precision not in NET_PRECISIONS]:
        raise ValueError(f"precisions must be among {', '.join(NET_PRECISIONS)}, got {', '.join(map(repr, unknown))}")

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    present = present_peers(console, peers)
    implementations = [Ours(), *(kind() for peer in present for kind in PEERS[peer])]
    findings = Findings.of(json, present)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(cases) * len(precisions))

        def on_begin(what: str) -> None:
            progress.update(task, description=what)
            if not console.is_terminal:
                say(what)

        with until_interrupted(say):
            for case in cases:
                for precision in precisions:
                    training = Training(GPU_NET[case], precision, resident_images(GPU_NET[case]))
                    findings.add(measured(training, implementations, TraineeApart, on_begin, say))
                    progress.advance(task)
    records = findings.records
    for precision in precisions:
        console.print(steps_table(records, precision))
        for line in (*standing_lines(records, precision), *loss_lines(records, precision)):
            say(line)
    console.print(first_steps_table(records))
    return records


def measured(
    training: Training,
    implementations: Sequence[Implementation],
    kind: type[Trainee],
    on_begin: Report,
    on_failure: Report,
) -> Iterator[Record]:
    """The records of one case in one precision: a step, the first and the first ten of each implementation and layout.

    Each is a trainee of that kind. All prepare at once; whatever is timed, one does after the other. An implementation
    that cannot do it is reported and left out.
    """
    described = f"{training.case.name}, {training.precision}"
    with ExitStack() as stack:
        on_begin(f"{described}: exact losses")
        trainees = {
            (implementation.name, layout): stack.enter_context(kind(implementation, training, layout))
            for implementation in implementations
            for layout in implementation.layouts
        }
        exact = exact_losses(training, COMPARED_STEPS)
        free_memory(training.device)

        def report(key: TraineeKey, failure: TraineeFailed) -> None:
            on_failure(f"not measured: {described}: {' '.join(key)}: {failure}")

        def begin(key: TraineeKey, trainee: Trainee) -> Beginning:
            on_begin(f"{described}: {', '.join(key)}")
            return trainee.begin()

        _each(trainees, lambda key, trainee: trainee.prepare(), report)
        first = _each(trainees, begin, report)
        on_begin(f"{described}: timing")
        seconds = step_seconds(trainees, TURN_SECONDS, TURNS, report)
    for key in seconds:
        beginning = first[key]
        yield _record(training, key, "step", seconds[key], relative_error(beginning.losses, exact))
        yield _record(training, key, "first_step", beginning.first_seconds, None)
        yield _record(training, key, "first_steps", beginning.seconds, None)


def step_seconds(
    trainees: dict[Key, Trainee], turn_seconds: float, turns: int, on_failure: Callable[[Key, TraineeFailed], object]
) -> dict[Key, float]:
    """Median seconds of a step of each.

    Parameters
    ----------
    trainees : dict of key to Trainee
        They take turns. Those that fail are taken out.
    turn_seconds : float
        About how long a turn is.
    turns : int
    on_failure : function of key and `TraineeFailed`

    Returns
    -------
    dict of key to float
    """

    def length(key: Key, trainee: Trainee) -> int:
        trainee.seconds(3)
        return max(1, round(turn_seconds / trainee.seconds(10)))

    def turn(key: Key, trainee: Trainee) -> float:
        trainee.seconds(1 + lengths[key] // WARM_UP_SHARE)
        return trainee.seconds(lengths[key])

    lengths = _each(trainees, length, on_failure)
    samples = [_each(trainees, turn, on_failure) for _ in range(turns)]
    return {key: median(sample[key] for sample in samples) for key in trainees}


def _each(
    trainees: dict[Key, Trainee],
    task: Callable[[Key, Trainee], Result],
    on_failure: Callable[[Key, TraineeFailed], object],
) -> dict[Key, Result]:
    """What a task gives of one trainee after the other. Those that fail are reported, ended and taken out."""
    results = {}
    for key, trainee in list(trainees.items()):
        try:
            results[key] = task(key, trainee)
        except TraineeFailed as failure:
            on_failure(key, failure)
            trainees.pop(key).end()
    return results


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
