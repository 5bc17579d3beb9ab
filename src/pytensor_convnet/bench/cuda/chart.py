"""The figures of layers on a GPU as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pytensor_convnet.bench.chart import figure_of
from pytensor_convnet.bench.cuda import pool_table, table
from pytensor_convnet.bench.cuda.table import OURS, Rows, best_peer, compared_layout
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record
from pytensor_convnet.bench.session import InvalidBenchmark

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def convolutions_figure(
    machine: GpuMachine, records: Sequence[Record], dtype: str = "float32", precision: str = "medium"
) -> "Figure":
    """How many times as long as ours the best peer takes for each pass of each convolution.

    Parameters
    ----------
    machine : GpuMachine
    records : sequence of Record
        Ours count in `table.compared_layout`, batch-last where they are in it.
    dtype, precision : str

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    InvalidBenchmark
        No peer stands beside any of ours.
    """
    rows = table.rows_of(records, dtype, precision)
    return _figure(f"conv, {dtype}, {precision}", rows, compared_layout(records), machine)


def pools_figure(machine: GpuMachine, records: Sequence[Record], dtype: str = "float32") -> "Figure":
    """The same of each pool, forward and backward."""
    return _figure(f"pool, {dtype}", pool_table.rows_of(records, dtype), compared_layout(records), machine)


def _figure(measured: str, rows: Rows, layout: str, machine: GpuMachine) -> "Figure":
    ratios = {
        key: peer / row[OURS, layout].seconds
        for key, row in rows.items()
        if (OURS, layout) in row and (peer := best_peer(row)) is not None
    }
    if not ratios:
        raise InvalidBenchmark(f"--plot draws how this package compares with peers, and none is here: {measured}")
    peers = dict.fromkeys(name for row in rows.values() for name, _ in row if name != OURS)
    return figure_of(ratios, measured, ", ".join(peers), machine.processor)


def check_plot(path: Path | None, peers: Sequence[str]) -> None:
    """Raise InvalidBenchmark where a chart is asked for and no peer is measured."""
    if path is not None and not peers:
        raise InvalidBenchmark("--plot draws how this package compares with peers, but none is measured")


def draw(console: Console, figure: "Figure", path: Path) -> None:
    """Save a chart, and say so."""
    from pytensor_convnet import plots

    plots.save(figure, path)
    console.print(f"drawn {path}", highlight=False, markup=False, soft_wrap=True)
