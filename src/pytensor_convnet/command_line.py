"""What the commands of ``pytensor-convnet`` share: checks of options, and errors in one message."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pytensor_convnet import datasets, pictures, training
from pytensor_convnet.array_files import CorruptCheckpoint
from pytensor_convnet.bench.session import InvalidBenchmark
from pytensor_convnet.cuda import DeviceUnavailable
from pytensor_convnet.distributed import LostProcess
from pytensor_convnet.joining import InvalidLaunch, launched

EXPECTED_ERRORS = (
    datasets.CorruptData,
    CorruptCheckpoint,
    pictures.UnreadablePicture,
    training.InvalidSetting,
    InvalidBenchmark,
    DeviceUnavailable,
    training.Diverged,
    training.StepFailed,
    LostProcess,
    InvalidLaunch,
    ImportError,
    OSError,  # datasets.MissingData is one
)
"""What can go wrong without a mistake in this program: told in one message, without a traceback."""

ERRORS_OF_ALL = (training.InvalidSetting, training.Diverged)
"""What goes wrong in every process of a run at once, so that the first may tell it for all."""


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """A check that the value of an option is among ``names``."""

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}")
        return value

    return check


def names_in(listed: str | None) -> list[str]:
    """The names in a list with commas between them."""
    return [name.strip() for name in (listed or "").split(",") if name.strip()]


def names_among(listed: str | None, valid: Collection[str], option: str) -> list[str]:
    """The names that an option lists, each among ``valid``; all of these if it was not given."""
    if listed is None:
        return list(valid)
    names = list(dict.fromkeys(names_in(listed)))
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise typer.BadParameter(f"{', '.join(map(repr, unknown))} is not one of {', '.join(valid)}", param_hint=option)
    return names


ModeOption = Annotated[
    str | None,
    typer.Option(
        help="A mode of PyTensor: CUDA for an NVIDIA GPU, NUMBA, FAST_RUN, FAST_COMPILE, CVM, ...",
        show_default="PyTensor's own default",
    ),
]


@contextmanager
def errors_in_one_message() -> Iterator[None]:
    """Tell expected errors on standard error and exit with status 1."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        if not isinstance(error, ERRORS_OF_ALL) or launched().is_first:
            typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from None


def check_folder(path: Path | None) -> None:
    """Find out beforehand whether a file can be written there."""
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to save in")


def print_path(console: Console, verb: str, path: Path) -> None:
    """Tell what became of a file, on one line whatever its name."""
    console.print(f"{verb} {path}", markup=False, highlight=False, soft_wrap=True)
