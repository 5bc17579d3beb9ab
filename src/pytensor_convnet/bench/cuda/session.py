"""A run of the benchmark on a GPU, from the names of cases and peers to a table and JSON."""

from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from pytensor_convnet import __version__
from pytensor_convnet.bench import records as records_module
from pytensor_convnet.bench.cases import CONV
from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.bench.cuda.conv import OPERATIONS, ConvOperation, Implementation, implementations
from pytensor_convnet.bench.cuda.table import figures_table, standing_lines
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record
from pytensor_convnet.kernels.cuda import FORMATS

PRECISIONS = (("float32", "medium"), ("float32", "high"), ("bfloat16", "medium"))
"""Dtypes and precisions, one table each. Peers have no 'high'; it is compared with their float32."""


def run_benchmark(
    console: Console,
    cases: Sequence[str],
    peers: Sequence[str],
    json: Path | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Record]:
    """Measure convolutions on the GPU, and show what was found.

    Parameters
    ----------
    console : rich Console
    cases : names of `CONV`
    peers : sequence of {'torch', 'jax'}
        Those that are not installed are left out.
    json : path, optional
        Where records go, after each case.
    formats : names of physical formats
        Ours is measured in each of them.
    """
    present = tuple(peer for peer in peers if find_spec(peer))
    for peer in set(peers) - set(present):
        console.print(f"not measured, for it is not installed: {peer} (pip install {peer})", highlight=False)
    machine = GpuMachine.measured(package_versions(present))
    records: list[Record] = []
    for name in cases:
        records += measured(name, present, machine, formats)
        if json is not None:
            records_module.write(json, machine, records)
    for dtype, precision in PRECISIONS:
        console.print(figures_table(records, dtype, precision))
    for line in standing_lines(records):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return records


def measured(name: str, peers: Sequence[str], machine: GpuMachine, formats: Sequence[str]) -> Iterator[Record]:
    """The records of one case."""
    case = CONV[name]
    for dtype, precision in PRECISIONS:
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


def package_versions(peers: Sequence[str]) -> dict[str, str]:
    """Versions of ours, of what it runs on, and of the peers."""
    named = {name: metadata.version(name) for name in ("torch", "triton", *peers)}
    return {"pytensor-convnet": __version__, "cudnn": str(torch.backends.cudnn.version()), **named}
