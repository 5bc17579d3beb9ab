"""Ratios and means of records that were made up, in tables and in a chart."""

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pytensor_convnet import plots
from pytensor_convnet.bench.chart import ratios_figure
from pytensor_convnet.bench.comparison import BEST_PEER, Rival, comparisons, share_of_error_bound, standings
from pytensor_convnet.bench.table import figures_table, standings_table, summary_lines
from tests.bench.made_up import CONV_RECORDS, MACHINE, record


def text_of(table, width=140):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def cells(table):
    return [list(row) for row in zip(*(column.cells for column in table.columns))]


def standing(rival):
    return next(s for s in standings(comparisons(CONV_RECORDS)) if str(s.rival) == rival)


def test_the_best_layout_of_the_best_peer_counts():
    assert [c.ratio(BEST_PEER) for c in comparisons(CONV_RECORDS)] == [2, 0.25, 2]
    assert [c.ratio(Rival("torch")) for c in comparisons(CONV_RECORDS)] == [2, 0.5, 2]
    assert [c.ratio(Rival("torch", "bc01")) for c in comparisons(CONV_RECORDS)] == [4, 0.5, 4]
    assert [c.ratio(Rival("pytensor-ml")) for c in comparisons(CONV_RECORDS)] == [None] * 3


def test_standings_are_geometric_means():
    best = standing("the best of all peers")
    assert best.mean == pytest.approx(1)
    assert best.mean_of_group == pytest.approx(0.5**0.5)  # lenet1 is of the group, cifar2 is not
    assert (best.worst.case, best.worst.operation, best.worst_ratio) == ("lenet1", "input_grad", 0.25)
    assert standing("torch, bc01").mean == pytest.approx(2)
    assert standing("torch, its better layout").mean == pytest.approx(2 ** (1 / 3))
    assert standing("jax, bc01").mean == pytest.approx((8 * 0.25 * 8) ** (1 / 3))


def test_a_variant_of_ours_is_a_rival_and_no_peer():
    records = [
        record("lenet", "step", suite="net", relative_error=None, floor_seconds=None, seconds=0.02),
        record("lenet", "step", suite="net", layout="bc01 without fusion", seconds=0.03),
        record("lenet", "step", suite="net", implementation="torch", seconds=0.04),
    ]
    found = {str(s.rival): s.mean for s in standings(comparisons(records))}
    assert found == {"ours, bc01 without fusion": pytest.approx(1.5), "torch, bc01": pytest.approx(2)}
    assert cells(figures_table("net", comparisons(records))) == [
        ["lenet", "step", "20.0", "30.0", "40.0", "2.00", "3.0"]
    ]


def test_rounding_grows_with_the_root_of_the_sum():
    assert share_of_error_bound(record("cifar2", relative_error=2e-6)) == pytest.approx((100 / (32 * 25)) ** 0.5)
    assert share_of_error_bound(record("cifar2", relative_error=None)) is None
    assert share_of_error_bound(record("cifar_p32", suite="pool")) is None


def test_the_table_of_figures():
    rows = cells(figures_table("conv", comparisons(CONV_RECORDS)))
    assert rows[0] == ["lenet1", "forward", "288", "50%", "72", "144", "36", "2.00", "1.0e-07", "3.0"]
    assert [row[:2] for row in rows] == [["lenet1", "forward"], ["", "input grad"], ["cifar2", "forward"]]
    assert "GFLOP/s" in text_of(figures_table("conv", comparisons(CONV_RECORDS)))


def test_no_figure_is_lost_on_a_narrow_terminal():
    records = [*CONV_RECORDS, record("cifar1_b1024", "filter_grad", seconds=0.1)]
    text = text_of(figures_table("conv", comparisons(records)), width=80)
    assert "cifar1_b1024" in text
    assert "…" not in text


def test_a_table_of_ours_alone_has_no_figures_to_compare():
    rows = cells(figures_table("pool", comparisons([record("avg_p32", suite="pool", extra_bytes=None)])))
    assert rows == [["avg_p32", "forward", "5.2", "50%", "-", "1.0e-07", "-"]]


def test_the_table_of_standings():
    rows = cells(standings_table(comparisons(CONV_RECORDS)))
    assert rows[0] == ["the best of all peers", "1.00", "0.71", "0.25", "lenet1 input grad"]
    assert [row[0] for row in rows[1:]] == [
        "torch, its better layout",
        "torch, bc01",
        "torch, channels_last",
        "jax, bc01",
    ]


def test_the_summary():
    lines = summary_lines(comparisons(CONV_RECORDS), MACHINE)
    assert lines == [
        "A Processor, 2 of 4 cores: multiply-adds 400 GFLOP/s (float32), copies 30 GB/s",
        "few channels, or strided: lenet1",
        "largest extra memory of ours: 2.5 MB a thread (lenet1 input grad)",
        "largest error of ours: 0.10 of the bound 2e-6 * sqrt(K / 100) (lenet1 forward)",
    ]


def test_the_memory_of_a_network_is_not_its_threads():
    step = record("lenet", "step", suite="net", relative_error=None, floor_seconds=None)
    assert summary_lines(comparisons([step]), MACHINE)[1] == "largest extra memory of ours: 3.0 MB (lenet step)"


def test_the_chart_shows_ratios_and_their_mean(tmp_path):
    figure = ratios_figure("conv", comparisons(CONV_RECORDS), MACHINE)
    (axes,) = figure.axes
    _, forward, input_grad, mean = axes.lines
    assert list(forward.get_xdata()) == [2, 2]
    assert list(input_grad.get_xdata()) == [0.25]
    assert mean.get_label() == "geometric mean 1.00"
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lenet1", "cifar2"]
    assert "torch, jax" in axes.get_xlabel()
    plots.save(figure, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
