"""The figures of networks on a GPU as tables, and what they come to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from rich import box
from rich.table import Table

from pytensor_convnet.bench.records import Record

OURS = "pytensor-convnet"

LARGEST_ERRORS = {"medium": 1e-3, "bf16": 1e-2}
"""Who computes the same in a precision has losses that differ by less, relative to float64's; or by not much more than
the others' do, where a network learns so fast that rounding grows from step to step."""

MUCH_MORE = 5
"""Times the median of the others."""

Row = Mapping[str, Record]
"""By implementation its record, in the layout that is faster for its steps."""


def rows_of(records: Iterable[Record], precision: str, operation: str = "step") -> dict[str, Row]:
    """By case, the records of an operation: of each implementation the one in its better layout."""
    steps = [record for record in records if record.precision == precision and record.operation == "step"]
    better: dict[tuple[str, str], Record] = {}
    for record in sorted(steps, key=lambda record: record.seconds, reverse=True):
        better[record.case, record.implementation] = record
    rows: dict[str, dict[str, Record]] = {}
    for record in records:
        best = better.get((record.case, record.implementation))
        if (record.precision, record.operation) == (precision, operation) and best and record.layout == best.layout:
            rows.setdefault(record.case, {})[record.implementation] = record
    return dict(rows)


def best_peer(row: Row) -> Record | None:
    """The record of the fastest peer."""
    peers = [record for name, record in row.items() if name != OURS]
    return min(peers, key=lambda record: record.seconds, default=None)


def ratio(row: Row) -> float | None:
    """How many times as long as ours the best peer takes; None where one of them was not measured."""
    peer = best_peer(row)
    return peer.seconds / row[OURS].seconds if peer is not None and OURS in row else None


def implementations_of(rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    """All names, ours first."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return sorted(names, key=lambda name: name != OURS)


def steps_table(records: Sequence[Record], precision: str) -> Table:
    """A row for each case: microseconds a step of each implementation in its better layout, and how ours compares."""
    rows = rows_of(records, precision)
    title = f"net, {precision}: microseconds a step of training, in the better layout"
    table = _table(title, implementations_of(rows), "best peer /\nours")
    for case, row in rows.items():
        cells = [_with_layout(row.get(name), 1e6, 0) for name in implementations_of(rows)]
        found = ratio(row)
        table.add_row(case, *cells, "-" if found is None else f"{found:.2f}")
    return table


def first_steps_table(records: Sequence[Record]) -> Table:
    """A row for each case in each precision: the seconds to the end of the first step and of the tenth.

    Compilation is included.
    """
    precisions = list(dict.fromkeys(record.precision for record in records))
    by_precision = {precision: first_seconds(records, precision) for precision in precisions}
    names = implementations_of({p + case: row for p, rows in by_precision.items() for case, row in rows.items()})
    table = _table("net: seconds to the end of the first step and of the tenth", names)
    for precision, rows in by_precision.items():
        for case, row in rows.items():
            table.add_row(f"{case}, {precision}", *(row.get(name, "-, -") for name in names))
    return table


def first_seconds(records: Iterable[Record], precision: str) -> dict[str, dict[str, str]]:
    """By case and implementation, the seconds to the end of the first step and of the tenth.

    A dash stands for a first step that was not timed by itself.
    """
    records = list(records)
    firsts, tenths = (rows_of(records, precision, which) for which in ("first_step", "first_steps"))

    def told(case: str, name: str) -> str:
        first = firsts.get(case, {}).get(name)
        return f"{'-' if first is None else f'{first.seconds:.1f}'}, {tenths[case][name].seconds:.1f}"

    return {case: {name: told(case, name) for name in row} for case, row in tenths.items()}


def standing_lines(records: Sequence[Record], precision: str) -> Iterator[str]:
    """For each case, how much longer than ours the best peer takes, and which it is."""
    for case, row in rows_of(records, precision).items():
        peer, found = best_peer(row), ratio(row)
        if peer is not None and found is not None:
            yield f"{case}, {precision}: best peer / ours {found:.2f} ({peer.implementation}, {peer.layout})"


def loss_lines(records: Sequence[Record], precision: str) -> Iterator[str]:
    """How far losses are from float64's, and who seems to compute something else."""
    errors: dict[str, dict[str, float]] = {}
    for record in records:
        if (record.precision, record.operation) == (precision, "step") and record.relative_error is not None:
            name = f"{record.implementation}, {record.layout}"
            errors.setdefault(record.case, {})[name] = record.relative_error
    if not errors:
        return
    largest, case, name = max(
        (error, case, name) for case, of_case in errors.items() for name, error in of_case.items()
    )
    yield f"{precision}: losses of the first steps differ from float64's by at most {largest:.1e} ({case}: {name})"
    for case, of_case in errors.items():
        for name, error in of_case.items():
            others = [other for rival, other in of_case.items() if rival != name]
            if not error <= max(LARGEST_ERRORS[precision], MUCH_MORE * median(others) if others else 0):
                yield (
                    f"COMPUTES SOMETHING ELSE: {case}, {precision}: {name}: "
                    f"its losses differ from float64's by {error:.1e}"
                )


def _table(title: str, names: Sequence[str], *more: str) -> Table:
    table = Table(title=title, box=box.HORIZONTALS, padding=(0, 1, 0, 0), min_width=len(title) + 2)
    table.add_column("case", no_wrap=True)
    for heading in (*("ours" if name == OURS else name.replace(" ", "\n") for name in names), *more):
        table.add_column(heading, justify="right")
    return table


def _with_layout(record: Record | None, scale: float, digits: int) -> str:
    if record is None:
        return "-"
    return f"{scale * record.seconds:.{digits}f}\n{record.layout.replace('_', ' ')}"
