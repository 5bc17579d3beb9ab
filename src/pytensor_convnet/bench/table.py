"""The figures of a benchmark as tables for a terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from pytensor_convnet.bench.comparison import (
    BEST_PEER,
    FEW_CHANNELS_OR_STRIDED,
    OUR_LAYOUT,
    OURS,
    Comparison,
    achieved,
    share_of_error_bound,
    standings,
)
from pytensor_convnet.bench.records import Machine, Record

FIGURES = {"conv": "GFLOP/s, nominal", "pool": "GB/s", "net": "ms a training step"}
"""What the figures of each suite are."""


def cases_table(title: str, *columns: str) -> Table:
    """A table of cases and their shapes, which has no rows yet, and of columns whose cells stay on one line."""
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for name in ("case", "shapes", *columns):
        table.add_column(name, no_wrap=True)
    return table


def figures_table(suite: str, compared: Sequence[Comparison]) -> Table:
    """A row for each operation of each case: ours, each peer in each layout, and how ours compares.

    Parameters
    ----------
    suite : str
    compared : sequence of Comparison

    Returns
    -------
    rich Table
    """
    columns = _columns(compared)
    with_floor = any(comparison.ours.floor_seconds for comparison in compared)
    with_error = any(comparison.ours.relative_error is not None for comparison in compared)
    better = "lower" if suite == "net" else "higher"
    # No vertical lines, and what is too wide is folded: eleven columns fit in a hundred characters.
    table = Table(title=f"{suite}: {FIGURES[suite]}; {better} is better", box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("case", no_wrap=True)
    table.add_column("operation", no_wrap=True)

    def add_figures(name: str, style: str = "") -> None:
        table.add_column(name, justify="right", overflow="fold", style=style)

    add_figures(f"ours\n{OUR_LAYOUT}", style="bold")
    if with_floor:
        add_figures("of the\nceiling")
    for implementation, layout in columns:
        name = "ours" if implementation == OURS else implementation
        narrow = layout.replace("_", "\n").replace(" without ", "\nwithout\n")
        add_figures(f"{name}\n{narrow}")
    add_figures("best\npeer /\nours", style="bold")
    if with_error:
        add_figures("error")
    add_figures("extra\nMB")
    for number, comparison in enumerate(compared):
        ours = comparison.ours
        figures = {(record.implementation, record.layout): _figure(record) for record in comparison.others}
        first_of_case = number == 0 or compared[number - 1].case != comparison.case
        last_of_case = number + 1 == len(compared) or compared[number + 1].case != comparison.case
        row = [comparison.case if first_of_case else "", comparison.operation.replace("_", " "), _figure(ours)]
        if with_floor:
            row.append("-" if ours.floor_seconds is None else f"{100 * ours.floor_seconds / ours.seconds:.0f}%")
        row += [figures.get(column, "-") for column in columns]
        row.append(_ratio(comparison.ratio(BEST_PEER)))
        if with_error:
            row.append("-" if ours.relative_error is None else f"{ours.relative_error:.1e}")
        row.append("-" if ours.extra_bytes is None else f"{ours.extra_bytes / 1e6:.1f}")
        table.add_row(*row, end_section=last_of_case)
    return table


def standings_table(compared: Sequence[Comparison]) -> Table:
    """How ours stands beside each rival: geometric means of ratios of times, and the worst one.

    Parameters
    ----------
    compared : sequence of Comparison
        At least one with a rival.

    Returns
    -------
    rich Table
    """
    found = standings(compared)
    with_group = any(standing.mean_of_group is not None for standing in found)
    title = "time of others / time of ours: geometric means; above 1 ours is faster"
    table = Table(title=title, box=box.HORIZONTALS, min_width=len(title) + 2)
    table.add_column("beside")
    table.add_column("all", justify="right", style="bold")
    if with_group:
        table.add_column("few channels,\nor strided", justify="right")
    table.add_column("worst", justify="right")
    table.add_column("which is")
    for standing in found:
        row = [str(standing.rival), _ratio(standing.mean)]
        if with_group:
            row.append(_ratio(standing.mean_of_group))
        worst = f"{standing.worst.case} {standing.worst.operation.replace('_', ' ')}"
        table.add_row(*row, _ratio(standing.worst_ratio), worst)
    return table


def summary_lines(compared: Sequence[Comparison], machine: Machine) -> list[str]:
    """What is worth telling beside the tables: ceilings, memory, accuracy.

    Parameters
    ----------
    compared : sequence of Comparison
    machine : Machine

    Returns
    -------
    list of str
    """
    lines = [
        f"{machine.processor}, {machine.threads} of {machine.cores} cores: "
        f"multiply-adds {machine.float32_flops_per_second / 1e9:.0f} GFLOP/s (float32), "
        f"copies {machine.copy_bytes_per_second / 1e9:.0f} GB/s"
    ]
    few = sorted({c.case for c in compared} & set(FEW_CHANNELS_OR_STRIDED), key=FEW_CHANNELS_OR_STRIDED.index)
    if few:
        lines.append(f"few channels, or strided: {', '.join(few)}")
    ours = [comparison.ours for comparison in compared]
    measured = [record for record in ours if record.extra_bytes is not None]
    if measured:
        most = max(measured, key=lambda record: record.extra_bytes or 0)
        lines.append(f"largest extra memory of ours: {_extra_memory(most, machine.threads)} ({_name(most)})")
    shares = [(share, record) for record in ours if (share := share_of_error_bound(record)) is not None]
    if shares:
        share, record = max(shares, key=lambda pair: pair[0])
        lines.append(f"largest error of ours: {share:.2f} of the bound 2e-6 * sqrt(K / 100) ({_name(record)})")
    return lines


def machine_name(machine: Machine) -> str:
    """Processor and threads, for titles."""
    return f"{machine.processor}, {machine.threads} thread{'s' if machine.threads > 1 else ''}"


def _columns(compared: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Implementations and layouts beside ours, in the order in which they were measured."""
    found = {(r.implementation, r.layout): None for comparison in compared for r in comparison.others}
    return list(found)


def _figure(record: Record) -> str:
    if record.suite == "net":
        return f"{1e3 * record.seconds:.1f}"
    return f"{achieved(record) / 1e9:.{0 if record.suite == 'conv' else 1}f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def _extra_memory(record: Record, threads: int) -> str:
    """A network's is its activations; a kernel's is what its threads keep each."""
    if record.suite == "net":
        return _megabytes(record.extra_bytes or 0)
    return f"{_megabytes((record.extra_bytes or 0) // threads)} a thread"


def _name(record: Record) -> str:
    return f"{record.case} {record.operation.replace('_', ' ')}"
