"""The figures of pools on a GPU as a table, and what they come to."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import geometric_mean

from rich import box
from rich.table import Table

from pytensor_convnet.bench.cuda.table import OURS, Rows, best_peer, by_operation, microseconds
from pytensor_convnet.bench.records import Record


def rows_of(records: Iterable[Record], dtype: str) -> Rows:
    """The records of all implementations and layouts."""
    return by_operation(record for record in records if record.dtype == dtype)


def figures_table(records: Sequence[Record], dtype: str) -> Table:
    """A row for each operation of each case: microseconds of all, and in brackets ours as a multiple of the floor."""
    rows = rows_of(records, dtype)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(title=f"pool, {dtype}: microseconds", box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for heading in ("case", "operation"):
        table.add_column(heading, no_wrap=True)
    for heading in ("floor", *(f"{'ours' if name == OURS else name}\n{layout}" for name, layout in columns)):
        table.add_column(heading, justify="right", no_wrap=True)
    for (case, operation), row in rows.items():
        floor = next(iter(row.values())).floor_seconds
        table.add_row(case, operation, microseconds(floor), *(_figure(row.get(column)) for column in columns))
    return table


def standing_lines(records: Sequence[Record], dtype: str) -> Iterator[str]:
    """For each format of ours, how much longer the best peer takes for a case, forward and backward together."""
    for layout, ratios in ratios_of(rows_of(records, dtype)).items():
        worst = min(ratios, key=lambda case: ratios[case])
        yield (
            f"{dtype}, {layout}: best peer / ours, forward and backward {geometric_mean(ratios.values()):.2f}, "
            f"worst {ratios[worst]:.2f} ({worst})"
        )


def ratios_of(rows: Rows) -> dict[str, dict[str, float]]:
    """By format of ours and case the best peer's time over ours, operations added; of what was measured with peers."""
    found: dict[str, dict[str, float]] = {}
    for case in dict.fromkeys(case for case, _ in rows):
        parts = [row for (name, _), row in rows.items() if name == case]
        peers = [best_peer(row) for row in parts]
        for layout in dict.fromkeys(layout for row in parts for name, layout in row if name == OURS):
            ours = [row.get((OURS, layout)) for row in parts]
            if None not in peers and None not in ours:
                ratio = sum(filter(None, peers)) / sum(record.seconds for record in filter(None, ours))
                found.setdefault(layout, {})[case] = ratio
    return found


def _figure(record: Record | None) -> str:
    if record is None:
        return "-"
    if record.implementation != OURS or not record.floor_seconds:
        return microseconds(record.seconds)
    return f"{microseconds(record.seconds)} ({record.seconds / record.floor_seconds:.2f})"
