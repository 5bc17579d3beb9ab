"""A run of the convolutions on a GPU, from the names of cases and peers to tables, JSON and chart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from pytensor_convnet.bench.cases import CONV, CONV_PRECISIONS, GPU_FORMATS
from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.bench.cuda.chart import check_plot, convolutions_figure, draw
from pytensor_convnet.bench.cuda.conv import OPERATIONS, ConvOperation, Implementation, implementations
from pytensor_convnet.bench.cuda.findings import Findings, present_peers, until_interrupted
from pytensor_convnet.bench.cuda.table import figures_table, standing_lines
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record


def run_benchmark(
    console: Console,
    cases: Sequence[str],
    peers: Sequence[str],
    json: Path | None = None,
    formats: Sequence[str] = GPU_FORMATS,
    precisions: Sequence[str] = tuple(CONV_PRECISIONS),
    plot: Path | None = None,
) -> list[Record]:
    """Measure convolutions on the GPU, and show what was found.

    Parameters
    ----------
    console : rich Console
    cases : names of `CONV`
    peers : sequence of {'torch', 'jax'}
        Those that are not installed are left out. They have no 'high', beside which their 'medium', tf32, stands.
    json : path, optional
        Where records go, after each case; see `Findings`.
    formats : names of physical formats
        Ours is measured in each of them.
    precisions : names of `CONV_PRECISIONS`
        One table each.
    plot : path, optional
        Where the chart goes, of the first of the precisions.

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
            findings.add(measured(name, present, findings.machine, formats, precisions))
    for precision in precisions:
        console.print(figures_table(findings.records, *CONV_PRECISIONS[precision]))
    for line in standing_lines(findings.records):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if plot is not None:
        figure = convolutions_figure(findings.machine, findings.records, *CONV_PRECISIONS[precisions[0]])
        draw(console, figure, plot)
    return findings.records


def measured(
    name: str, peers: Sequence[str], machine: GpuMachine, formats: Sequence[str], precisions: Sequence[str]
) -> Iterator[Record]:
    """The records of one case."""
    case = CONV[name]
    for dtype, precision in (CONV_PRECISIONS[name] for name in precisions):
        for operation_name in OPERATIONS:
            operation = ConvOperation(case, operation_name, getattr(torch, dtype), precision)
            sets = operation.operands(timing.sets_of_operands(operation.nbytes))
            exact = operation.exact(sets[0])
            floor = max(case.flops / machine.flops_per_second(dtype), operation.nbytes / machine.copy_bytes_per_second)
            for implementation in implementations(peers if precision == "medium" else (), formats):
                yield _record(operation, implementation, sets, exact, floor)


def _record(
    operation: ConvOperation, implementation: Implementation, sets, exact: torch.Tensor, floor: float
) -> Record:
    error = (implementation.result(operation, sets[0]).double() - exact).norm() / exact.norm()
    extra = implementation.extra_bytes(operation, sets[0])
    return Record(
        suite="conv",
        case=operation.case.name,
        operation=operation.name,
        device="cuda",
        dtype=str(operation.dtype).removeprefix("torch."),
        precision=operation.precision,
        implementation=implementation.name,
        layout=implementation.layout,
        seconds=implementation.seconds(operation, sets),
        floor_seconds=floor,
        relative_error=float(error),
        extra_bytes=extra,
    )
