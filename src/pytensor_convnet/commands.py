"""The commands of ``pytensor-convnet``: train a network, let it classify pictures, and measure how fast it all is."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from pytensor_convnet import __version__, checkpoints, pictures, reports
from pytensor_convnet.bench.cases import GPU_FORMATS
from pytensor_convnet.bench.peers import GPU_PEERS, peers_of
from pytensor_convnet.bench.session import run_benchmark
from pytensor_convnet.bench.suite import GPU_PRECISIONS, GPU_SUITES, SUITES
from pytensor_convnet.command_line import (
    ModeOption,
    check_folder,
    errors_in_one_message,
    names_among,
    names_in,
    one_of,
)
from pytensor_convnet.models import Classifier
from pytensor_convnet.settings import check_mode
from pytensor_convnet.train_command import train

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train convolutional networks with PyTensor and let them classify pictures.",
)


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


app.command()(train)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="What `train` wrote with --save or --checkpoint.")],
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
    with errors_in_one_message():
        check_mode(mode)
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
    suite: Annotated[str, typer.Argument(metavar="|".join(SUITES), callback=one_of(SUITES), help="What to measure.")],
    device: Annotated[
        str,
        typer.Option(callback=one_of(("cpu", "cuda")), help="Where: cpu, or cuda for a GPU."),
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
    precisions: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help=f"On a GPU: of convolutions {', '.join(GPU_PRECISIONS['conv'])}, of networks "
            f"{', '.join(GPU_PRECISIONS['net'])}.",
            show_default="all",
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help=f"Of convolutions and pools on a GPU, how our tensors lie in memory: {', '.join(GPU_FORMATS)}.",
            show_default="all",
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
    json: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write all figures to this file; on a GPU, add to those of an earlier run that it has.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw how this package compares, as PNG in this file.")
    ] = None,
) -> None:
    """Measure how fast this package is, beside others.

    Everyone gets the same data and takes turns within one run; medians are told.
    Ctrl-C ends measuring after the operation at hand and shows what is known by then.
    """
    on_gpu = device == "cuda"
    chosen = names_among(cases, (GPU_SUITES if on_gpu else SUITES)[suite], "--cases")
    wanted = names_among(peers, GPU_PEERS if on_gpu else peers_of(suite), "--peers")
    if precisions is not None and not (on_gpu and suite in GPU_PRECISIONS):
        raise typer.BadParameter("only of convolutions and networks on a GPU", param_hint="--precisions")
    if formats is not None and not (on_gpu and suite in ("conv", "pool")):
        raise typer.BadParameter("only of convolutions and pools on a GPU", param_hint="--formats")
    if on_gpu:
        in_precisions = names_among(precisions, GPU_PRECISIONS.get(suite, ()), "--precisions")
        in_formats = names_among(formats, GPU_FORMATS, "--formats")
        _bench_on_a_gpu(suite, chosen, wanted, in_precisions, in_formats, json, plot)
        return
    with errors_in_one_message():
        for path in (json, plot):
            check_folder(path)
        run_benchmark(Console(), suite, chosen, wanted, threads, seconds, names_in(exclude), json, plot)


def _bench_on_a_gpu(
    suite: str,
    cases: list[str],
    peers: list[str],
    precisions: list[str],
    formats: list[str],
    json: Path | None,
    plot: Path | None,
) -> None:
    """Measure on a GPU, if there is one."""
    if plot is not None and suite == "net":
        raise typer.BadParameter("there is no chart of networks on a GPU; --json keeps figures", param_hint="--plot")
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        packages = " and ".join(missing)
        raise typer.BadParameter(f"cuda needs {packages}: pip install 'pytensor-convnet[cuda]'", param_hint="--device")
    import torch

    if not torch.cuda.is_available():
        raise typer.BadParameter("cuda needs an NVIDIA GPU, and a torch that was built for it", param_hint="--device")
    from pytensor_convnet.bench.cuda import net_session, pool_session, session

    with errors_in_one_message():
        for path in (json, plot):
            check_folder(path)
        if suite == "conv":
            session.run_benchmark(Console(), cases, peers, json, formats, precisions, plot)
        elif suite == "pool":
            pool_session.run_benchmark(Console(), cases, peers, json, formats, plot)
        else:
            net_session.run_benchmark(Console(), cases, peers, json, precisions)


def _should_invert(picture: np.ndarray, network: Classifier) -> bool:
    """Colours carry meaning; of grey pictures the border tells."""
    return len(picture) == 1 and pictures.is_inverted(picture, float(network.normalisation.mean[0]))


def _probabilities(network: Classifier, images: np.ndarray, mode: str | None) -> np.ndarray:
    """The probabilities of all classes, (batch, classes)."""
    import pytensor
    import pytensor.tensor as pt

    symbolic_images = pt.tensor("images", shape=(None, *network.image_shape), dtype="float32")
    function = pytensor.function([symbolic_images], network.probabilities(symbolic_images), mode=mode)
    return np.asarray(function(images))
