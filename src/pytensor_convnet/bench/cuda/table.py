"""The figures of a run on a GPU as a table, and what they come to."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean

from rich import box
from rich.table import Table

from pytensor_convnet.bench.records import Record

OURS = "pytensor-convnet"
OUR_LAYOUT = "batch_last"
"""The format of ours that is compared, where it was measured."""

FEW_CHANNELS_OR_STRIDED = ("lenet1", "cifar1", "cifar1_b1024", "alex1", "cb1", "stride2", "stride2_5x5", "stride2_1024")
"""The layers whose mean is told apart."""


Row = Mapping[tuple[str, str], Record]
"""The record of each implementation in each layout."""

Rows = Mapping[tuple[str, str], Row]
"""By case and operation."""


def by_operation(records: Iterable[Record]) -> Rows:
    """The records of one dtype and precision in rows."""
    rows: dict[tuple[str, str], dict[tuple[str, str], Record]] = {}
    for record in records:
        rows.setdefault((record.case, record.operation), {})[record.implementation, record.layout] = record
    return rows


def compared_layout(records: Sequence[Record]) -> str:
    """The format of ours that is compared: `OUR_LAYOUT`, or the first of ours where none is in that."""
    ours = [record.layout for record in records if record.implementation == OURS]
    return OUR_LAYOUT if OUR_LAYOUT in ours or not ours else ours[0]


def rows_of(records: Sequence[Record], dtype: str, precision: str) -> Rows:
    """The records of all implementations and layouts, where ours is one in `compared_layout`.

    Beside our 'high' stand the peers' 'medium'.
    """
    layout = compared_layout(records)
    compared = (
        record
        for record in records
        if record.dtype == dtype and record.precision == (precision if record.implementation == OURS else "medium")
    )
    return {key: row for key, row in by_operation(compared).items() if (OURS, layout) in row}


def best_peer(row: Row) -> float | None:
    """The seconds of the fastest peer in its best layout."""
    seconds = [record.seconds for (implementation, _), record in row.items() if implementation != OURS]
    return min(seconds) if seconds else None


def best_of_ours(row: Row) -> float:
    """The seconds of ours in its best format."""
    return min(record.seconds for (implementation, _), record in row.items() if implementation == OURS)


def figures_table(records: Sequence[Record], dtype: str, precision: str) -> Table:
    """A row for each operation of each case: microseconds of all, the floor, and how ours compares."""
    rows, layout = rows_of(records, dtype, precision), compared_layout(records)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(title=f"conv, {dtype}, {precision}: microseconds", box=box.HORIZONTALS, padding=(0, 1, 0, 0))
    for name in ("case", "operation"):
        table.add_column(name, no_wrap=True)
    names = [f"{'ours' if name == OURS else name}\n{other.replace('_', chr(10))}" for name, other in columns]
    for name in ("floor", *names, "best peer /\nours", "error"):
        table.add_column(name, justify="right")
    for (case, operation), row in rows.items():
        ours, peer = row[OURS, layout], best_peer(row)
        table.add_row(
            case,
            operation.replace("_", " "),
            microseconds(ours.floor_seconds),
            *(microseconds(row[column].seconds) if column in row else "-" for column in columns),
            "-" if peer is None else f"{peer / ours.seconds:.2f}",
            f"{ours.relative_error:.1e}",
        )
    return table


def standing_lines(records: Sequence[Record]) -> list[str]:
    """Geometric means of the best peer's time over ours, in one format and in our best; and the worst ratios."""
    lines, layout = [], compared_layout(records)
    for dtype, precision in dict.fromkeys((record.dtype, record.precision) for record in records):
        found = [(key, best_peer(row), row) for key, row in rows_of(records, dtype, precision).items()]
        in_format = {key: peer / row[OURS, layout].seconds for key, peer, row in found if peer is not None}
        in_best = {key: peer / best_of_ours(row) for key, peer, row in found if peer is not None}
        for label, ratios in ((layout, in_format), ("our best format", in_best)):
            if not ratios:
                continue
            few = [ratio for (case, _), ratio in ratios.items() if case in FEW_CHANNELS_OR_STRIDED]
            worst = min(ratios, key=lambda key: ratios[key])
            lines.append(
                f"{dtype} {precision}, {label}: best peer / ours {geometric_mean(ratios.values()):.2f}, "
                f"few channels or strided {geometric_mean(few) if few else float('nan'):.2f}, "
                f"worst {ratios[worst]:.2f} ({' '.join(worst)})"
            )
    return lines


def microseconds(seconds: float | None) -> str:
    """The figure of a cell, of what there is."""
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"
