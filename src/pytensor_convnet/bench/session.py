"""A run of the benchmark from the names of cases and peers to tables, JSON and chart."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pytensor_convnet.bench import records as records_module
from pytensor_convnet.bench.comparison import comparisons, rivals
from pytensor_convnet.bench.peers import PEERS, Peer
from pytensor_convnet.bench.records import Machine, Record
from pytensor_convnet.bench.suite import SUITES, run
from pytensor_convnet.bench.table import figures_table, standings_table, summary_lines
from pytensor_convnet.training import interrupts_held_back

WIDTH_OF_FILES = 140
"""How wide tables may be where there is no terminal to tell."""


class InvalidBenchmark(ValueError):
    """An argument of `run_benchmark` that cannot work."""


def run_benchmark(
    console: Console,
    suite: str,
    cases: Sequence[str],
    peers: Sequence[str],
    threads: int | None = None,
    seconds: float = 1.0,
    exclude: Sequence[str] = (),
    json: Path | None = None,
    plot: Path | None = None,
) -> list[Record]:
    """Measure, and show what was found.

    Parameters
    ----------
    console : rich Console
        Gets a progress bar, tables, and the names of peers that are not installed.
    suite : {'conv', 'pool', 'net'}
    cases, peers : sequence of str
    threads : int, optional
        How many threads everyone may use; by default all cores.
    seconds : float
        About how long to spend on each figure.
    exclude : sequence of str
        Names of PyTensor's rewrites without which ours is measured a second time.
    json, plot : path, optional
        Where records and chart go.

    Returns
    -------
    list of Record

    Raises
    ------
    InvalidBenchmark
        An argument cannot work; the message names the option.
    """
    threads = _checked_threads(threads)
    missing = [name for name in peers if not PEERS[name].is_installed()]
    for name in missing:
        console.print(f"not measured, for it is not installed: {name} (pip install {name})", highlight=False)
    present = [name for name in peers if name not in missing]
    if plot is not None and not present:
        raise InvalidBenchmark("--plot draws how this package compares with peers, but none is measured")
    machine, records = _measure(console, suite, cases, present, threads, seconds, exclude)
    compared = comparisons(records)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_FILES)
    if compared:
        console.print(figures_table(suite, compared))
    if rivals(compared):
        console.print(standings_table(compared))
    for line in summary_lines(compared, machine):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if json is not None:
        records_module.write(json, machine, records)
        console.print(f"written {json}", highlight=False, markup=False, soft_wrap=True)
    if plot is not None and rivals(compared):
        from pytensor_convnet import plots
        from pytensor_convnet.bench.chart import ratios_figure

        plots.save(ratios_figure(suite, compared, machine), plot)
        console.print(f"drawn {plot}", highlight=False, markup=False, soft_wrap=True)
    return records


def _measure(
    console: Console,
    suite: str,
    cases: Sequence[str],
    peers: Sequence[str],
    threads: int,
    seconds: float,
    exclude: Sequence[str],
) -> tuple[Machine, list[Record]]:
    """The machine and the records of a run, or of as much of it as an interrupt lets happen."""
    from pytensor_convnet.bench.peers.ours import Ours, unknown_rewrites

    if unknown := unknown_rewrites(exclude):
        raise InvalidBenchmark(f"--exclude: PyTensor has no rewrite {', '.join(map(repr, unknown))}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("the machine's ceilings", total=None)
        implementations: list[Peer] = [Ours(threads, exclude), *(PEERS[name](threads) for name in peers)]
        machine = Machine.measured(threads)
        layouts = sum(len(implementation.layouts) for implementation in implementations)
        total = layouts * sum(len(SUITES[suite][name].operations) for name in cases)
        records: list[Record] = []
        with interrupts_held_back() as raise_if_interrupted:
            try:
                for record in run(
                    suite,
                    cases,
                    implementations,
                    machine,
                    seconds,
                    on_step=lambda step: progress.update(task, description=step, total=total),
                ):
                    records.append(record)
                    progress.advance(task)
                    raise_if_interrupted()
            except KeyboardInterrupt:
                console.print("interrupted; what is known by now:")
    return machine, records


def _checked_threads(threads: int | None) -> int:
    """The number of threads that was asked for, or all that Numba has: one for each core, unless it was told else."""
    import numba

    most = numba.config.NUMBA_NUM_THREADS
    if threads is not None and not 1 <= threads <= most:
        raise InvalidBenchmark(f"--threads must be from 1 to {most}, as many as Numba has here, got {threads}")
    return threads or most
