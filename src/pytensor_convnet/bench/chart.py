"""The figures of a benchmark as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytensor_convnet.bench.comparison import BEST_PEER, Comparison
from pytensor_convnet.bench.records import OPERATIONS, Machine
from pytensor_convnet.bench.table import machine_name
from pytensor_convnet.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = dict(zip(OPERATIONS, "osD^o"))


def ratios_figure(suite: str, compared: Sequence[Comparison], machine: Machine) -> "Figure":
    """For each operation of each case, how many times as long as ours the best peer takes, in its best layout.

    The axis is logarithmic: twice as fast lies as far to the right as half as fast to the left. A line marks equal
    times, and a dashed one the geometric mean of all.

    Parameters
    ----------
    suite : str
    compared : sequence of Comparison
        Those that no peer took part in are left out; at least one must remain.
    machine : Machine

    Returns
    -------
    matplotlib Figure
    """
    ratios = {
        (comparison.case, comparison.operation): ratio
        for comparison in compared
        if (ratio := comparison.ratio(BEST_PEER)) is not None
    }
    peers = dict.fromkeys(r.implementation for c in compared for r in c.others if BEST_PEER.is_met_by(r))
    return figure_of(ratios, suite, ", ".join(peers), machine_name(machine))


def figure_of(ratios: Mapping[tuple[str, str], float], measured: str, peers: str, machine: str) -> "Figure":
    """What `ratios_figure` draws, of such ratios by case and operation.

    Parameters
    ----------
    ratios : mapping of (str, str) to float
    measured, peers, machine : str
        What was measured, beside whom, and where, for title and label.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    cases = list(dict.fromkeys(case for case, _ in ratios))
    operations = [operation for operation in OPERATIONS if any(operation == done for _, done in ratios)]
    figure = new_figure(8, 1.9 + 0.32 * len(cases))
    axes = figure.add_subplot()
    axes.axvline(1, color="0.4", linewidth=1, zorder=1)
    for operation in operations:
        points = [(ratio, cases.index(case)) for (case, done), ratio in ratios.items() if done == operation]
        axes.plot(
            [ratio for ratio, _ in points],
            [place for _, place in points],
            MARKERS[operation],
            color=f"C{operations.index(operation)}",
            label=operation.replace("_", " "),
            zorder=3,
        )
    mean = statistics.geometric_mean(ratios.values())
    axes.axvline(mean, color="0.2", linestyle="--", linewidth=1.2, zorder=2, label=f"geometric mean {mean:.2f}")
    axes.set_xscale("log", base=2)
    low, high = min(0.5, *ratios.values()), max(2.0, *ratios.values())
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.5, -0.5)  # the first case on top
    axes.set_xlabel(f"time of the best peer ({peers}; best layout) / time of pytensor-convnet")
    axes.set_title(f"{measured}: right of 1 pytensor-convnet is faster\n{machine}", fontsize="medium")
    axes.grid(axis="both", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(operations) + 1, frameon=False)
    return figure
