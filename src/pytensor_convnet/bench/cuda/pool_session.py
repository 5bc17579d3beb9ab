"""A run of the pools on a GPU, from the names of cases and peers to a table, JSON and chart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from pytensor_convnet.bench.cases import GPU_FORMATS, POOL
from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.bench.cuda.chart import check_plot, draw, pools_figure
from pytensor_convnet.bench.cuda.findings import Findings, present_peers, until_interrupted
from pytensor_convnet.bench.cuda.pool import Implementation, Operands, PoolOperation, implementations
from pytensor_convnet.bench.cuda.pool_table import figures_table, standing_lines
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record

DTYPES = ("float32", "bfloat16")


def run_benchmark(
    console: Console,
    cases: Sequence[str],
    peers: Sequence[str],
    json: Path | None = None,
    formats: Sequence[str] = GPU_FORMATS,
    plot: Path | None = None,
) -> list[Record]:
    """Measure pools on the GPU, and show what was found.

    Parameters
    ----------
    console : rich Console
    cases : names of `POOL`
    peers : sequence of {'torch', 'jax'}
        Those that are not installed are left out.
    json : path, optional
        Where records go, after each case; see `Findings`.
    formats : names of physical formats
        Ours is measured in each of them.
    plot : path, optional
        Where the chart of float32 goes.

    Returns
    -------
    list of Record
        With those that the file had before.

    Raises
    ------
    InvalidBenchmark
        The file cannot be added to, or there is nothing to draw.
    """
    present = present_peers(console, peers)
    check_plot(plot, present)
    findings = Findings.of(json, present)
    with until_interrupted(console.print):
        for name in cases:
            findings.add(measured(name, present, findings.machine, formats))
    for dtype in DTYPES:
        console.print(figures_table(findings.records, dtype))
        for line in standing_lines(findings.records, dtype):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if plot is not None:
        draw(console, pools_figure(findings.machine, findings.records), plot)
    return findings.records


def measured(
    name: str, peers: Sequence[str], machine: GpuMachine, formats: Sequence[str] = GPU_FORMATS
) -> Iterator[Record]:
    """The records of one case."""
    case = POOL[name]
    for dtype in DTYPES:
        for operation_name in case.operations:
            operation = PoolOperation(case, operation_name, getattr(torch, dtype))
            sets = operation.operands(timing.sets_of_operands(operation.nbytes))
            exact = operation.exact(sets[0])
            for implementation in implementations(peers, formats):
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
