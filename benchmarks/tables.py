"""Markdown tables of the figures that ``pytensor-convnet bench --json`` writes.

    python benchmarks/tables.py conv.json pool.json net.json                        # prints them
    python benchmarks/tables.py conv.json pool.json net.json --write docs/cpu.md    # puts them between its markers

Several files may hold records of one suite; ratios are taken within a file.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytensor_convnet.bench.comparison import FEW_CHANNELS_OR_STRIDED, Comparison, Rival, achieved, comparisons
from pytensor_convnet.bench.records import Machine, Record, read
from pytensor_convnet.bench.table import machine_name

RIVALS = (Rival("torch"), Rival("torch", "bc01"), Rival("jax"))  # of layers, in the order of the ratios
FIGURES = {"conv": "GFLOP/s, nominal", "pool": "ms, multiple of the floor", "net": "ms a step"}


class Measurements:
    """All comparisons of one suite, by case and operation."""

    def __init__(self, compared: Iterable[Comparison]):
        self.of: dict[tuple[str, str], list[Comparison]] = {}
        for comparison in compared:
            self.of.setdefault((comparison.case, comparison.operation), []).append(comparison)
        self.cases = list(dict.fromkeys(case for case, _ in self.of))
        self.operations = list(dict.fromkeys(operation for _, operation in self.of))
        self.rivals = [rival for rival in RIVALS if self.ratios(rival, self.cases, self.operations)]

    def ratio(self, rival: Rival, case: str, operation: str) -> float | None:
        """Time of a rival over ours; None where it was not measured."""
        found = (comparison.ratio(rival) for comparison in self.of.get((case, operation), []))
        return next((ratio for ratio in found if ratio is not None), None)

    def ratios(self, rival: Rival, cases: Sequence[str], operations: Sequence[str]) -> list[float]:
        """All ratios that are known."""
        found = (self.ratio(rival, case, operation) for case in cases for operation in operations)
        return [ratio for ratio in found if ratio is not None]

    def means(self, cases: Sequence[str], operations: Sequence[str]) -> str:
        """Geometric means of the ratios to each rival."""
        found = (self.ratios(rival, cases, operations) for rival in self.rivals)
        return ", ".join(f"{statistics.geometric_mean(ratios):.2f}" if ratios else "-" for ratios in found)


def figure(record: Record) -> str:
    """That of a convolution or a pool."""
    if record.suite == "conv":
        return f"{achieved(record) / 1e9:.0f}"
    return f"{1e3 * record.seconds:.2f}, {record.seconds / (record.floor_seconds or float('nan')):.1f}x"


def layers_table(measured: Measurements) -> list[str]:
    """A row for each case, a column for each pass; geometric means in the last rows."""

    def cell(case: str, operation: str) -> str:
        if (case, operation) not in measured.of:
            return "-"
        return f"{figure(measured.of[case, operation][0].ours)} ({measured.means([case], [operation])})"

    operations = measured.operations
    lines = table_head(["case", *(operation.replace("_", " ") for operation in operations), "all passes"])
    for case in measured.cases:
        cells = [cell(case, operation) for operation in operations]
        lines.append(row([case, *cells, measured.means([case], operations)]))
    few = [case for case in measured.cases if case in FEW_CHANNELS_OR_STRIDED]
    for name, cases in (("geometric mean", measured.cases), (f"the same of {', '.join(few)}", few)):
        if cases:
            means = [measured.means(cases, [operation]) for operation in operations]
            lines.append(row([name, *means, measured.means(cases, operations)]))
    return lines


def networks_table(measured: Measurements) -> list[str]:
    """A row for each network, a column for each implementation: its time, and beside it that over ours."""
    found = [record for compared in measured.of.values() for c in compared for record in c.others]
    others = list(dict.fromkeys((record.implementation, record.layout) for record in found))
    lines = table_head(["case", "ours", *(f"{name}, {layout.replace('_', ' ')}" for name, layout in others)])
    for compared in measured.of.values():
        cells = [compared[0].case, f"{1e3 * compared[0].ours.seconds:.1f}"]
        for name, layout in others:
            pairs = ((r, c.ours) for c in compared for r in c.others if (r.implementation, r.layout) == (name, layout))
            texts = (f"{1e3 * record.seconds:.1f} ({record.seconds / ours.seconds:.2f})" for record, ours in pairs)
            cells.append(next(texts, "-"))
        lines.append(row(cells))
    return lines


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_head(names: Sequence[str]) -> list[str]:
    return [row(names), row(["---"] + ["---:"] * (len(names) - 1))]


def machine_line(machine: Machine) -> str:
    """What was measured on, and with what."""
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    rates = (
        f"{machine.float32_flops_per_second / 1e9:.0f} GFLOP/s, copies {machine.copy_bytes_per_second / 1e9:.0f} GB/s"
    )
    return f"{machine_name(machine)}; multiply-adds {rates}; {packages}."


def markdown(suite: str, files: Sequence[tuple[Machine, list[Record]]]) -> str:
    """The table of a suite, below the machines of its files and a line that says what the figures are."""
    some = [(machine, [r for r in records if r.suite == suite]) for machine, records in files]
    measured = Measurements(comparison for _, records in some for comparison in comparisons(records))
    lines = [machine_line(machine) + "  " for machine, records in some if records]
    beside = "" if suite == "net" else f" of {'; of '.join(map(str, measured.rivals))}"
    lines += [f"{FIGURES[suite]}; in brackets the time{beside} over ours: above 1 ours is faster.", ""]
    return "\n".join(lines + (networks_table if suite == "net" else layers_table)(measured))


def replaced(text: str, suite: str, table: str) -> str:
    """The text with a table between the markers of a suite.

    >>> replaced("a <!-- net table -->old<!-- /net table --> b", "net", "new").split("\\n")
    ['a <!-- net table -->', 'new', '<!-- /net table --> b']
    """
    begin, end = f"<!-- {suite} table -->", f"<!-- /{suite} table -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected one {begin} and after it one {end}")
    return f"{text.split(begin)[0]}{begin}\n{table}\n{end}{text.split(end)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN")
    options = parser.parse_args()
    files = [read(path) for path in options.files]
    measured = {record.suite for _, records in files for record in records}
    tables = {suite: markdown(suite, files) for suite in FIGURES if suite in measured}
    if options.write is None:
        print("\n\n".join(tables.values()))
        return
    text = options.write.read_text()
    for suite, table in tables.items():
        text = replaced(text, suite, table)
    options.write.write_text(text)


if __name__ == "__main__":
    main()
