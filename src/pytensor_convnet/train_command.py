"""The command ``pytensor-convnet train``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from pytensor_convnet import checkpoints, datasets, reports, training, training_states
from pytensor_convnet.command_line import ModeOption, check_folder, errors_in_one_message, one_of, print_path
from pytensor_convnet.cuda.devices import find_device
from pytensor_convnet.datasets import Dataset
from pytensor_convnet.distributed import Processes, joined
from pytensor_convnet.history import History
from pytensor_convnet.learning import BATCH_SIZE
from pytensor_convnet.models import MODELS, Classifier, Normalisation
from pytensor_convnet.placement import gpu_of, is_cuda
from pytensor_convnet.profiling import StepProfiler

MODEL_NAMES = ", ".join(MODELS).replace("_", "-")


def _model_name(value: str) -> str:
    """The name of a network, in which the command line has dashes for underscores."""
    return one_of(MODELS)(value.replace("-", "_"))


def train(
    model: Annotated[str, typer.Option(callback=_model_name, help=f"The network: {MODEL_NAMES}.")] = "lenet",
    data: Annotated[
        str, typer.Option(callback=one_of(datasets.NAMES), help=f"The data set: {', '.join(datasets.NAMES)}.")
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
    validation_fraction: Annotated[
        float,
        typer.Option(
            help="The share of training images held out to choose the best epoch. With 0 all are learnt from, and "
            "the last epoch is kept."
        ),
    ] = training.VALIDATION_FRACTION,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Bring minibatches from the host's memory while the step before is computed, or put all images where "
            "the mode computes.",
            show_default="streamed if they take more than half of a GPU's memory",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the trained network to this file (.npz).")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="After each epoch, write to this file (.npz) all that --resume needs."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Go on from a --checkpoint file, with the settings and data that it was written with; --epochs counts "
            "those before.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Write a trace of some steps to this file (.json), and tell what the GPU did in them; with mode CUDA.",
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Draw filters.png and learning_curve.png in this folder."),
    ] = None,
) -> None:
    """Train a network on a data set.

    Some of the training images are held out to choose the best epoch.
    The test images are looked at once, in the end.
    Ctrl-C ends training early and keeps the best parameters so far.
    Under torchrun, processes share each minibatch, and the first one prints and writes.
    """
    with errors_in_one_message(), _joined(mode) as processes:
        console = Console(quiet=not processes.is_first)
        profiler = _profiler(profile, mode)
        state = None if resume is None else training_states.load(resume)
        _prepare_outputs([save, checkpoint, profile], plots)
        if not processes.is_first:
            save = checkpoint = plots = profiler = None
        dataset = datasets.load(data, data_folder, seed)
        network = _new_network(model, dataset, seed)
        count, test_count = len(dataset.train_images), len(dataset.test_images)
        console.print(
            f"{model.replace('_', '-')} on {data}: {count} images to train, {test_count} to test", highlight=False
        )
        try:
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
                    validation_fraction,
                    stream,
                    state,
                    on_compiled=display.on_compiled,
                    on_batch=display.on_batch,
                    on_epoch=display.on_epoch,
                    on_state=None if checkpoint is None else _state_writer(checkpoint, network, dataset),
                    profiler=profiler,
                    processes=processes,
                    overlap_epochs=True,
                )
        except training.StepFailed as failure:
            if save is not None and failure.parameters:
                checkpoints.save(save, network, dataset.class_names, failure.parameters)
                print_path(console, f"the parameters of epoch {failure.epoch} saved", save)
            raise
        console.print(reports.training_table(history, epochs))
        if profiler is not None:
            _tell_profile(console, profiler)
        if save is not None:
            checkpoints.save(save, network, dataset.class_names)
            print_path(console, "saved", save)
        if plots is not None:
            for path in _draw(network, history, plots):
                print_path(console, "drawn", path)


@contextmanager
def _joined(mode: str | None) -> Iterator[Processes]:
    """The processes of the run, where functions compiled in ``mode`` compute."""
    training.check_mode(mode)
    gpu = gpu_of(mode)
    if gpu is not None:
        find_device(gpu)  # or say what is missing
    with joined(gpu or "cpu") as processes:
        yield processes


def _profiler(file: Path | None, mode: str | None) -> StepProfiler | None:
    """What writes the trace, if one is wanted and can be had."""
    if file is None:
        return None
    if not is_cuda(mode):
        raise training.InvalidSetting(
            "profile needs mode CUDA, whose steps torch can record; for other modes PyTensor has a profile of its own: "
            "set the environment variable PYTENSOR_FLAGS to profile=True"
        )
    return StepProfiler(file, gpu_of(mode))


def _tell_profile(console: Console, profiler: StepProfiler) -> None:
    if profiler.profile is None:
        console.print(f"nothing recorded: there were only {profiler.seen} steps", highlight=False)
    else:
        console.print(reports.profile_table(profiler.profile))
        print_path(console, "traced", profiler.file)


def _state_writer(path: Path, network: Classifier, dataset: Dataset) -> Callable[[training_states.TrainingState], None]:
    """What writes a training to a file after each epoch."""
    return lambda state: training_states.save(path, network, dataset.class_names, state)


def _prepare_outputs(files: Sequence[Path | None], plots: Path | None) -> None:
    """Find out before training whether its results can be kept."""
    for path in files:
        check_folder(path)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)


def _new_network(name: str, dataset: Dataset, seed: int) -> Classifier:
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
