"""A run of the pools on a GPU, from the names of cases and peers to a table and JSON."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from pytensor_convnet.bench import records as records_module
from pytensor_convnet.bench.cases import POOL
from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.bench.cuda.pool import Implementation, Operands, PoolOperation, implementations
from pytensor_convnet.bench.cuda.session import package_versions
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record

OURS = "pytensor-convnet"
DTYPES = ("float32", "bfloat16")


def run_benchmark(
    console: Console, cases: Sequence[str], peers: Sequence[str], json: Path | None = None
) -> list[Record]:
    """Measure pools on the GPU, and show what was found.

    Parameters
    ----------
    console : rich Console
    cases : names of `POOL`
    peers : sequence of {'torch', 'jax'}
        Those that are not installed are left out.
    json : path, optional
        Where records go.
    """
    present = tuple(peer for peer in peers if find_spec(peer))
    for peer in set(peers) - set(present):
        console.print(f"not measured, for it is not installed: {peer} (pip install {peer})", highlight=False)
    machine = GpuMachine.measured(package_versions(present))
    records = [record for name in cases for record in measured(name, present, machine)]
    if json is not None:
        records_module.write(json, machine, records)
    for dtype in DTYPES:
        console.print(figures_table(records, dtype))
        for line in standing_lines(records, dtype):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return records


def measured(name: str, peers: tuple[str, ...], machine: GpuMachine) -> Iterator[Record]:
    """The records of one case."""
    case = POOL[name]
    for dtype in DTYPES:
        for operation_name in case.operations:
            operation = PoolOperation(case, operation_name, getattr(torch, dtype))
            sets = operation.operands(timing.sets_of_operands(operation.nbytes))
            exact = operation.exact(sets[0])
            for implementation in implementations(peers):
                yield _record(operation, implementation, sets, exact, operation.nbytes / machine.copy_bytes_per_second)


def _record(
    operation: PoolOperation, implementation: Implementation, sets: list[Operands], exact: torch.Tensor, floor: float
) -> Record:
    error = (implementation.result(operation, sets[0]).double() - exact).norm() / exact.norm()
    return Record(
        suite="pool",
        case=operation.case.name,
        operation=operation.name,
        device="cuda",
        dtype=str(operation.dtype).removeprefix("torch."),
        precision="ieee",
        implementation=implementation.name,
        layout=implementation.layout,
        seconds=implementation.seconds(operation, sets),
        floor_seconds=floor,
        relative_error=float(error),
        extra_bytes=None,
    )


def rows_of(records: Iterable[Record], dtype: str) -> dict[tuple[str, str], dict[tuple[str, str], Record]]:
    """By case and operation, the records of all implementations and layouts."""
    rows: dict[tuple[str, str], dict[tuple[str, str], Record]] = {}
    for record in records:
        if record.dtype == dtype:
            rows.setdefault((record.case, record.operation), {})[record.implementation, record.layout] = record
    return rows


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
        table.add_row(case, operation, _microseconds(floor), *(_figure(row.get(column)) for column in columns))
    return table


def standing_lines(records: Sequence[Record], dtype: str) -> Iterator[str]:
    """For each format of ours, how much longer the best peer takes for a case, forward and backward together."""
    rows = rows_of(records, dtype)
    cases = list(dict.fromkeys(case for case, _ in rows))
    layouts = list(dict.fromkeys(layout for row in rows.values() for name, layout in row if name == OURS))
    for layout in layouts:
        ratios = {}
        for case in cases:
            parts = [row for (name, _), row in rows.items() if name == case]
            peers = [_best_peer(row) for row in parts]
            if None not in peers:
                ratios[case] = sum(filter(None, peers)) / sum(row[OURS, layout].seconds for row in parts)
        if ratios:
            worst = min(ratios, key=lambda case: ratios[case])
            yield (
                f"{dtype}, {layout}: best peer / ours, forward and backward {geometric_mean(ratios.values()):.2f}, "
                f"worst {ratios[worst]:.2f} ({worst})"
            )


def _best_peer(row: dict[tuple[str, str], Record]) -> float | None:
    seconds = [record.seconds for (name, _), record in row.items() if name != OURS]
    return min(seconds) if seconds else None


def _figure(record: Record | None) -> str:
    if record is None:
        return "-"
    if record.implementation != OURS or not record.floor_seconds:
        return _microseconds(record.seconds)
    return f"{_microseconds(record.seconds)} ({record.seconds / record.floor_seconds:.2f})"


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"
