"""Pictures of filters and learning curves."""

import io

import numpy as np
import pytest
from PIL import Image

from pytensor_convnet import plots
from pytensor_convnet.history import EpochReport, Score


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_filters_fill_a_grid_of_pictures_without_ticks(tmp_path, channels):
    filters = np.random.default_rng(0).normal(size=(20, channels, 5, 5))
    figure = plots.filters_figure(filters)
    assert len(figure.axes) == 20
    assert not any(axes.axison for axes in figure.axes)
    assert "20 filters of 5 x 5" in figure.get_suptitle()
    plots.save(figure, tmp_path / "filters.png")
    drawn = pixels(tmp_path / "filters.png")
    assert 400 < drawn.shape[0] < 1200
    assert 400 < drawn.shape[1] < 1600
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100
    is_coloured = (drawn.max(axis=-1).astype(int) - drawn.min(axis=-1) > 30).any()
    assert is_coloured == (channels == 3)


def test_each_filter_has_its_own_scale():
    filters = np.array([[[[1.0, -0.5]]], [[[0.001, 0.0]]]])
    np.testing.assert_allclose(plots.normalised(filters), [[[[1, 0.25]]], [[[1, 0.5]]]])


def test_a_filter_of_zeros_is_grey():
    np.testing.assert_array_equal(plots.normalised(np.zeros((1, 3, 2, 2))), 0.5)


@pytest.mark.parametrize("number", [1, 5])
def test_a_learning_curve_shows_loss_and_accuracy(tmp_path, number):
    epochs = [EpochReport(n, 2 / n, Score(3 / n, 1 - 1 / n), 1.0, 100.0) for n in range(1, number + 1)]
    figure = plots.learning_curve_figure(epochs)
    losses, accuracies = figure.axes
    assert [line.get_ydata()[0] for line in losses.lines] == [2, 3]
    assert [line.get_ydata()[-1] for line in accuracies.lines] == [1 - 1 / number]
    assert losses.get_xlabel() == accuracies.get_xlabel() == "epoch"
    plots.save(figure, tmp_path / "curve.png")
    assert len(np.unique(pixels(tmp_path / "curve.png").reshape(-1, 3), axis=0)) > 20


def test_a_learning_curve_without_validation_shows_the_loss_alone():
    epochs = [EpochReport(epoch, 1 / epoch, None, 1.0, 100.0) for epoch in (1, 2)]
    (losses,) = plots.learning_curve_figure(epochs).axes
    assert losses.get_title() == "Loss"
    assert len(losses.lines) == 1


def test_pyplot_is_left_alone():
    import subprocess
    import sys

    program = (
        "import sys, numpy as np; from pytensor_convnet import plots; import io\n"
        "plots.filters_figure(np.ones((2, 1, 3, 3))).savefig(io.BytesIO())\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_figure_can_be_written_to_memory():
    buffer = io.BytesIO()
    plots.filters_figure(np.ones((1, 1, 2, 2))).savefig(buffer)
    assert buffer.getvalue()[1:4] == b"PNG"
