"""Pictures of what a network has learnt: its first filters, and its way there.

Figures are made without `pyplot`, whose global state and windows a library must not touch.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytensor_convnet.history import EpochReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def filters_figure(filters: np.ndarray) -> "Figure":
    """A picture of every filter of a first layer.

    Grey is zero, white the largest weight of the filter and black its negative, or with three channels the like for
    red, green and blue: a filter answers most to a piece of an image that looks like its picture.

    Parameters
    ----------
    filters : array, (filters, channels, rows, columns)
        As they lie on an image (`Classifier.first_filters`). Of other than one or three channels the mean is shown.

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> figure = filters_figure(np.random.default_rng(0).normal(size=(20, 1, 5, 5)))
    >>> len(figure.axes)
    20
    """
    number, channels = filters.shape[:2]
    if channels not in (1, 3):
        filters = filters.mean(axis=1, keepdims=True)
    columns = math.ceil(math.sqrt(1.25 * number))  # a little wider than high, as screens are
    rows = math.ceil(number / columns)
    figure = new_figure(max(columns, 4), rows + 0.6)
    figure.suptitle(f"First layer: {number} filters of {filters.shape[2]} x {filters.shape[3]}")
    for place, pixels in enumerate(normalised(filters), start=1):
        axes = figure.add_subplot(rows, columns, place)
        channels_last = np.moveaxis(pixels, 0, -1)  # as matplotlib wants them
        axes.imshow(channels_last, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
    return figure


def learning_curve_figure(epochs: Sequence[EpochReport]) -> "Figure":
    """Loss and accuracy, epoch by epoch.

    Parameters
    ----------
    epochs : sequence of EpochReport
        From `History.epochs`; at least one. Where no images were held out, only the loss is drawn.

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> from pytensor_convnet.history import Score
    >>> epochs = [EpochReport(n, 2 / n, Score(1 / n, 1 - 1 / n), 1.0, 500.0) for n in (1, 2, 3)]
    >>> [axes.get_title() for axes in learning_curve_figure(epochs).axes]
    ['Loss', 'Accuracy']
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    numbers = [epoch.epoch for epoch in epochs]
    figure = new_figure(9, 3.6)
    judged = [(epoch.epoch, epoch.validation) for epoch in epochs if epoch.validation is not None]
    panels = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    losses = panels[0]
    losses.set_title("Loss")
    losses.set_ylabel("negative log likelihood")
    losses.plot(numbers, [epoch.loss for epoch in epochs], marker="o", label="training, while learning")
    losses.set_yscale("log")  # late epochs halve a loss that no linear scale would show
    if judged:
        numbers = [epoch for epoch, _ in judged]
        losses.plot(numbers, [score.loss for _, score in judged], marker="o", label="validation")
        accuracies = panels[1]
        accuracies.set_title("Accuracy")
        accuracies.set_ylabel("validation images classified right")
        accuracies.plot(numbers, [score.accuracy for _, score in judged], marker="o", color="C1")
        accuracies.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    losses.legend(frameon=False)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return figure


def normalised(filters: np.ndarray) -> np.ndarray:
    """Each filter as pixels in [0, 1]: zero becomes 1/2, its largest weight (in size) 0 or 1.

    Parameters
    ----------
    filters : array, (filters, channels, rows, columns)

    Returns
    -------
    array of the same shape

    Examples
    --------
    >>> import numpy as np
    >>> normalised(np.array([[[[-2.0, 0.0, 1.0]]], [[[0.0, 0.0, 0.0]]]])).tolist()
    [[[[0.0, 0.5, 0.75]]], [[[0.5, 0.5, 0.5]]]]
    """
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * filters / np.where(largest == 0, 1, largest)


def save(figure: "Figure", path: Path | str) -> None:
    """Write a figure as PNG.

    Parameters
    ----------
    figure : matplotlib Figure
    path : path

    Raises
    ------
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(filters_figure(np.eye(5)[None, None]), Path(folder, "filters.png"))
    ...     Path(folder, "filters.png").read_bytes()[1:4]
    b'PNG'
    """
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches, that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
