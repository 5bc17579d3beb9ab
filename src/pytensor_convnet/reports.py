"""What the command line prints, on terminals and into files."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pytensor_convnet.history import BatchReport, EpochReport, History, Score
from pytensor_convnet.profiling import Profile


class TrainingDisplay:
    """Shows how training goes: a line for each epoch and, on a terminal, a bar that moves.

    Its methods are the callbacks of `training.train`. It is a context manager.

    Parameters
    ----------
    console : rich Console
    epochs : int
    """

    def __init__(self, console: Console, epochs: int) -> None:
        self.console = console
        self.epochs = epochs
        self.validation = ""
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            # Drawing takes this process a millisecond or two, in which it gives a GPU nothing to do.
            refresh_per_second=4,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("compiling", total=None, facts="")

    def __enter__(self) -> "TrainingDisplay":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def on_compiled(self, seconds: float) -> None:
        self.console.print(f"compiled in {seconds:.1f} s", highlight=False)

    def on_batch(self, report: BatchReport) -> None:
        self.progress.update(
            self.task,
            description=f"epoch {report.epoch}/{report.epochs}",
            total=report.epochs * report.batches,
            completed=(report.epoch - 1) * report.batches + report.batch,
            facts=f"loss {report.loss:.4f}{self.validation}, {_speed(report.images_per_second)}",
        )

    def on_epoch(self, report: EpochReport) -> None:
        if report.validation is not None:
            self.validation = f", validation accuracy {_percent(report.validation.accuracy)}"
        self.console.print(
            f"epoch {report.epoch:>{len(str(self.epochs))}}/{self.epochs}: loss {report.loss:.4f}{self.validation}, "
            f"{_speed(report.images_per_second)}",
            highlight=False,
        )


def training_table(history: History, epochs: int) -> Table:
    """How a training of at most ``epochs`` epochs went, in the end."""
    table = Table(title="Interrupted; the best so far" if history.interrupted else "Trained", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, score in {
        "training accuracy": history.train,
        "validation accuracy": history.validation,
        "test accuracy": history.test,
    }.items():
        table.add_row(name, _accuracy(score))
    table.add_row("epochs", f"{len(history.epochs)} of {epochs}")
    kept = "last epoch, kept" if history.epochs and history.validation is None else "best epoch, kept"
    table.add_row(kept, str(history.best_epoch or "none finished"))
    table.add_row("training", f"{history.training_seconds:.1f} s")
    table.add_row("speed", _speed(history.images_per_second))
    table.add_row("compilation", f"{history.compile_seconds:.1f} s")
    return table


TOP_KERNELS = 15
"""How many kernels a profile's table names."""


def profile_table(profile: Profile) -> Table:
    """What a GPU did in the steps that were recorded: the whole, then the kernels that took most of the time."""
    busy = "no GPU" if profile.busy is None else _percent(profile.busy)
    table = Table(
        title=f"{profile.steps} steps of {profile.microseconds:,.0f} us; GPU busy: {busy}",
        caption=f"copied in a step: {profile.bytes_to_device:,.0f} bytes to the GPU, {profile.bytes_to_host:,.0f} back",
        min_width=72,
    )
    table.add_column("operator" if profile.busy is None else "kernel", overflow="fold")
    for title in ("us a step", "calls", "share"):
        table.add_column(title, justify="right")
    for kernel in profile.kernels[:TOP_KERNELS]:
        table.add_row(Text(kernel.name), f"{kernel.microseconds:,.1f}", f"{kernel.calls:.3g}", _percent(kernel.share))
    return table


@dataclass(frozen=True)
class Prediction:
    """What a network makes of a picture: its two most probable classes, and whether the picture was inverted."""

    file: str
    best: str
    probability: float
    runner_up: str
    runner_up_probability: float
    inverted: bool


def prediction_table(predictions: Sequence[Prediction]) -> Table:
    """Predictions, a row for each picture."""
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("class", style="bold")
    table.add_column("probability", justify="right")
    table.add_column("runner-up")
    table.add_column("picture")
    for p in predictions:
        # File and class names come from elsewhere: Text, for rich would take brackets in a string for markup.
        table.add_row(
            Text(ascii(p.file)[1:-1] if not p.file.isprintable() else p.file),
            Text(p.best),
            _percent(p.probability),
            Text(f"{p.runner_up} ({_percent(p.runner_up_probability)})"),
            "inverted" if p.inverted else "as it is",
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:,.0f} images/s"


def _accuracy(score: Score | None) -> str:
    return "-" if score is None else _percent(score.accuracy)
