"""The commands of ``pytensor-convnet``: train a network, let it classify pictures, and measure how fast it all is."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from pytensor_convnet import __version__, checkpoints, datasets, pictures, reports, training
from pytensor_convnet.bench.peers import GPU_PEERS, peers_of
from pytensor_convnet.bench.session import InvalidBenchmark, run_benchmark
from pytensor_convnet.bench.suite import GPU_SUITES, SUITES
from pytensor_convnet.history import History
from pytensor_convnet.learning import BATCH_SIZE
from pytensor_convnet.models import MODELS, Classifier, Normalisation

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train convolutional networks with PyTensor and let them classify pictures.",
)

EXPECTED_ERRORS = (
    datasets.CorruptData,
    checkpoints.CorruptCheckpoint,
    pictures.UnreadablePicture,
    training.InvalidSetting,
    InvalidBenchmark,
    training.Diverged,
    ImportError,
    OSError,  # datasets.MissingData is one
)
"""What can go wrong without a mistake in this program: told in one message, without a traceback."""


MODEL_NAMES = ", ".join(MODELS).replace("_", "-")


def _one_of(names: Collection[str]) -> Callable[[str], str]:
    """A check that the value of an option is among ``names``."""

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}")
        return value

    return check


def _model_name(value: str) -> str:
    """The name of a network, in which the command line has dashes for underscores."""
    return _one_of(MODELS)(value.replace("-", "_"))


def _print_version(wanted: bool) -> None:
    if wanted:
        import pytensor

        typer.echo(f"pytensor-convnet {__version__} (PyTensor {pytensor.__version__})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


ModeOption = Annotated[
    str | None,
    typer.Option(
        help="A mode of PyTensor: NUMBA, FAST_RUN, FAST_COMPILE, CVM, ...", show_default="PyTensor's own default"
    ),
]


@app.command()
def train(
    model: Annotated[str, typer.Option(callback=_model_name, help=f"The network: {MODEL_NAMES}.")] = "lenet",
    data: Annotated[
        str, typer.Option(callback=_one_of(datasets.NAMES), help=f"The data set: {', '.join(datasets.NAMES)}.")
    ] = "digits",
    data_folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the files of the data set are; the digits need none.", show_default="the customary folders"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each image is learnt from.")] = training.EPOCHS,
    batch_size: Annotated[int, typer.Option(min=1, help="How many images one step learns from.")] = BATCH_SIZE,
    learning_rate: Annotated[float, typer.Option(help="How large the steps are.")] = training.LEARNING_RATE,
    momentum: Annotated[
        float, typer.Option(help="How much of a step the next one repeats: 0 to below 1.")
    ] = training.MOMENTUM,
    mode: ModeOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides all that is random; the same seed, the same training.")] = 0,
    shift: Annotated[
        int,
        typer.Option(min=0, help="Learn also from copies moved by so many pixels up, down, left and right."),
    ] = 0,
    save: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the trained network to this file (.npz).")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Draw filters.png and learning_curve.png in this folder."),
    ] = None,
) -> None:
    """Train a network on a data set.

    A tenth of the training images is held out to choose the best epoch.
    The test images are looked at once, in the end.
    Ctrl-C ends training early and keeps the best parameters so far.
    """
    console = Console()
    with _errors_in_one_message():
        training.check_mode(mode)
        _prepare_outputs(save, plots)
        dataset = datasets.load(data, data_folder, seed)
        network = _new_network(model, dataset, seed)
        count, test_count = len(dataset.train_images), len(dataset.test_images)
        console.print(
            f"{model.replace('_', '-')} on {data}: {count} images to train, {test_count} to test", highlight=False
        )
        with reports.TrainingDisplay(console, epochs) as display:
            history = training.train(
                network,
                dataset,
                epochs,
                batch_size,
                learning_rate,
                momentum,
                mode,
                seed,
                shift,
                on_compiled=display.on_compiled,
                on_batch=display.on_batch,
                on_epoch=display.on_epoch,
            )
        console.print(reports.training_table(history, epochs))
        if save is not None:
            checkpoints.save(save, network, dataset.class_names)
            _print_path(console, "saved", save)
        if plots is not None:
            for path in _draw(network, history, plots):
                _print_path(console, "drawn", path)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="A network that `train --save` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, of any usual format.")],
    invert: Annotated[
        bool | None,
        typer.Option(
            "--invert/--no-invert",
            help="Swap light and dark before looking, or do not. Networks learn light digits on dark ground; "
            "ink on paper is the opposite.",
            show_default="grey pictures whose border says so",
        ),
    ] = None,
    mode: ModeOption = None,
) -> None:
    """Let a trained network classify pictures."""
    with _errors_in_one_message():
        training.check_mode(mode)
        checkpoint = checkpoints.load(file)
        network = checkpoint.model
        taken = [pictures.read(path, network.image_shape) for path in images]
        inverted = [_should_invert(picture, network) if invert is None else invert for picture in taken]
        batch = np.stack([1 - picture if swap else picture for picture, swap in zip(taken, inverted)])
        probabilities = _probabilities(network, batch, mode)
        predictions = []
        for path, swap, row in zip(images, inverted, probabilities):
            runner_up, best = np.argsort(row)[-2:]
            names = checkpoint.class_names
            predictions.append(
                reports.Prediction(str(path), names[best], row[best], names[runner_up], row[runner_up], swap)
            )
        Console().print(reports.prediction_table(predictions))


@app.command()
def bench(
    suite: Annotated[str, typer.Argument(metavar="|".join(SUITES), callback=_one_of(SUITES), help="What to measure.")],
    device: Annotated[
        str,
        typer.Option(callback=_one_of(("cpu", "cuda")), help="Where: cpu, or cuda for a GPU."),
    ] = "cpu",
    cases: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which cases of the suite.", show_default="all")
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="What to measure beside this package: torch, jax and, in networks on a CPU, pytensor-ml.",
            show_default="all that are installed",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="How many threads everyone may use.", show_default="all cores")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="About how long to spend on each figure.")] = 1.0,
    exclude: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Rewrites of PyTensor, by name: this package is measured with all of them, and again without these.",
            show_default="none",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write all figures to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw how this package compares, as PNG in this file.")
    ] = None,
) -> None:
    """Measure how fast this package is, beside others.

    Everyone gets the same data and takes turns within one run; medians are told.
    Ctrl-C ends measuring after the operation at hand and shows what is known by then.
    """
    chosen = _listed(cases, (GPU_SUITES if device == "cuda" else SUITES)[suite], "--cases")
    wanted = _listed(peers, GPU_PEERS if device == "cuda" else peers_of(suite), "--peers")
    if device == "cuda":
        _bench_on_a_gpu(suite, chosen, wanted, json, plot)
        return
    with _errors_in_one_message():
        for path in (json, plot):
            _check_folder(path)
        run_benchmark(Console(), suite, chosen, wanted, threads, seconds, _names(exclude), json, plot)


def _bench_on_a_gpu(suite: str, cases: list[str], peers: list[str], json: Path | None, plot: Path | None) -> None:
    """Measure on a GPU, if there is one."""
    if plot is not None:
        raise typer.BadParameter("there is no chart of GPU figures; --json keeps them", param_hint="--plot")
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        packages = " and ".join(missing)
        raise typer.BadParameter(f"cuda needs {packages}: pip install 'pytensor-convnet[cuda]'", param_hint="--device")
    import torch

    if not torch.cuda.is_available():
        raise typer.BadParameter("cuda needs an NVIDIA GPU, and a torch that was built for it", param_hint="--device")
    from pytensor_convnet.bench.cuda import net_session, pool_session, session

    with _errors_in_one_message():
        _check_folder(json)
        sessions = {"conv": session, "pool": pool_session, "net": net_session}
        sessions[suite].run_benchmark(Console(), cases, peers, json)


def _names(listed: str | None) -> list[str]:
    """The names in a list with commas between them."""
    return [name.strip() for name in (listed or "").split(",") if name.strip()]


def _listed(listed: str | None, valid: Collection[str], option: str) -> list[str]:
    """The names that an option lists, each among ``valid``; all of these if it was not given."""
    if listed is None:
        return list(valid)
    names = list(dict.fromkeys(_names(listed)))
    unknown = [name for name in names if name not in valid]
    if unknown:
        raise typer.BadParameter(f"{', '.join(map(repr, unknown))} is not one of {', '.join(valid)}", param_hint=option)
    return names


@contextmanager
def _errors_in_one_message() -> Iterator[None]:
    """Tell expected errors on standard error and exit with status 1."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}"
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from None


def _prepare_outputs(save: Path | None, plots: Path | None) -> None:
    """Find out before training whether its results can be kept."""
    _check_folder(save)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)


def _check_folder(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to save in")


def _new_network(name: str, dataset: datasets.Dataset, seed: int) -> Classifier:
    """A network for the images of ``dataset``."""
    try:
        return MODELS[name](
            np.random.default_rng(seed),
            dataset.image_shape,
            dataset.number_of_classes,
            Normalisation.of(dataset.train_images),
        )
    except ValueError as error:
        raise training.InvalidSetting(f"{name} cannot be trained on {dataset.name}: {error}") from error


def _draw(network: Classifier, history: History, folder: Path) -> Iterator[Path]:
    """Draw what there is to see of a training; the paths of the pictures."""
    from pytensor_convnet import plots

    figures = {"filters.png": plots.filters_figure(network.first_filters())}
    if history.epochs:
        figures["learning_curve.png"] = plots.learning_curve_figure(history.epochs)
    for name, figure in figures.items():
        plots.save(figure, folder / name)
        yield folder / name


def _should_invert(picture: np.ndarray, network: Classifier) -> bool:
    """Colours carry meaning; of grey pictures the border tells."""
    return len(picture) == 1 and pictures.is_inverted(picture, float(network.normalisation.mean[0]))


def _probabilities(network: Classifier, images: np.ndarray, mode: str | None) -> np.ndarray:
    """The probabilities of all classes, (batch, classes)."""
    import pytensor
    import pytensor.tensor as pt

    symbolic_images = pt.tensor("images", shape=(None, *network.image_shape), dtype="float32")
    function = pytensor.function([symbolic_images], network.probabilities(symbolic_images), mode=mode)
    return function(images)


def _print_path(console: Console, verb: str, path: Path) -> None:
    console.print(f"{verb} {path}", markup=False, highlight=False, soft_wrap=True)
