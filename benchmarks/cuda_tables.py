"""Markdown tables of the figures that ``pytensor-convnet bench conv|net --device cuda --json`` writes.

python benchmarks/cuda_tables.py benchmarks/results/conv-h100.json                                # prints them
python benchmarks/cuda_tables.py benchmarks/results/conv-h100.json --write docs/cuda-kernels.md   # puts them in place
python benchmarks/cuda_tables.py benchmarks/results/conv-h100.json --plot docs/bench-conv-cuda.png      # draws them
python benchmarks/cuda_tables.py benchmarks/results/net-h100.json --write docs/cuda-mode.md
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean

from pytensor_convnet.bench.cuda import net_table
from pytensor_convnet.bench.cuda.chart import convolutions_figure, pools_figure
from pytensor_convnet.bench.cuda.table import (
    FEW_CHANNELS_OR_STRIDED,
    OUR_LAYOUT,
    OURS,
    best_of_ours,
    best_peer,
    rows_of,
)
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record, read
from pytensor_convnet.bench.session import InvalidBenchmark
from pytensor_convnet.plots import save

BEGIN = {suite: f"<!-- measured: {suite} -->" for suite in ("conv", "net")}
END = "<!-- end of measured -->"
OPERATIONS = ("forward", "input_grad", "filter_grad")
COMBINATIONS = (("float32", "medium"), ("float32", "high"), ("bfloat16", "medium"))


def machine_line(machine: GpuMachine) -> str:
    """The GPU, its ceilings, and the versions of what was measured."""
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return (
        f"{machine.processor}: tf32 {machine.tf32_flops_per_second / 1e12:.0f} TFLOP/s, bfloat16 "
        f"{machine.bfloat16_flops_per_second / 1e12:.0f} TFLOP/s, "
        f"copies {machine.copy_bytes_per_second / 1e12:.2f} TB/s; {packages}."
    )


def table(records: Sequence[Record], dtype: str, precision: str) -> Iterator[str]:
    """A row for each case; for each pass ours in batch-last, the floor, and the best peer's time over ours."""
    rows = rows_of(records, dtype, precision)
    yield f"**{dtype}, {precision}**"
    yield ""
    yield (
        "| case | " + " | ".join(f"{operation.replace('_', ' ')}: us, floor, ratio" for operation in OPERATIONS) + " |"
    )
    yield "|---|" + "---|" * len(OPERATIONS)
    for case in dict.fromkeys(case for case, _ in rows):
        yield f"| {case} | " + " | ".join(_cell(rows.get((case, operation))) for operation in OPERATIONS) + " |"
    yield ""
    few = {key: row for key, row in rows.items() if key[0] in FEW_CHANNELS_OR_STRIDED}
    yield (
        f"Geometric means of best peer / ours: {_mean(rows, False)} in batch-last and {_mean(rows, True)} in our best "
        f"format; of few channels or strides {_mean(few, False)} and {_mean(few, True)}."
    )
    yield ""


def _cell(row) -> str:
    if row is None:
        return "-"
    ours, peer = row[OURS, OUR_LAYOUT], best_peer(row)
    ratio = "-" if peer is None else f"{peer / ours.seconds:.2f}x"
    return f"{1e6 * ours.seconds:.0f}, {1e6 * (ours.floor_seconds or 0):.0f}, **{ratio}**"


def _mean(rows, in_best_format: bool) -> str:
    ratios = [
        peer / (best_of_ours(row) if in_best_format else row[OURS, OUR_LAYOUT].seconds)
        for row in rows.values()
        if (peer := best_peer(row)) is not None
    ]
    return f"{geometric_mean(ratios):.2f}" if ratios else "-"


def net_table_lines(records: Sequence[Record], precision: str) -> Iterator[str]:
    """A row for each network: microseconds a step of each implementation in its better layout, and seconds to be
    ready."""
    rows = net_table.rows_of(records, precision)
    firsts = net_table.first_seconds(records, precision)
    names = net_table.implementations_of(rows)
    heads = ["ours" if name == net_table.OURS else name for name in names]
    yield f"**{precision}**: microseconds a step, and in brackets seconds to the end of the first and of the tenth"
    yield ""
    yield f"| case | {' | '.join(heads)} | best peer / ours |"
    yield "|---|" + "---|" * (len(names) + 1)
    for case, row in rows.items():
        cells = [_net_cell(row.get(name), firsts[case].get(name)) for name in names]
        ratio = net_table.ratio(row)
        yield f"| {case} | {' | '.join(cells)} | {'-' if ratio is None else f'**{ratio:.2f}x**'} |"
    yield ""
    for line in net_table.loss_lines(records, precision):
        yield f"{line[0].upper()}{line[1:]}."
    yield ""


def _net_cell(step: Record | None, first: str | None) -> str:
    if step is None or first is None:
        return "-"
    layout = "" if step.implementation == net_table.OURS else f", {step.layout.replace('_', ' ')}"
    return f"{1e6 * step.seconds:.0f}{layout} ({first})"


def markdown(machine: GpuMachine, records: Sequence[Record]) -> str:
    """All tables of one suite."""
    lines = [machine_line(machine), ""]
    if records[0].suite == "net":
        for precision in dict.fromkeys(record.precision for record in records):
            lines += net_table_lines(records, precision)
    else:
        for dtype, precision in COMBINATIONS:
            lines += table(records, dtype, precision)
    return "\n".join(lines)


def figure(machine: GpuMachine, records: Sequence[Record]):
    """The chart of convolutions of float32, medium, or of pools of float32."""
    figures = {"conv": convolutions_figure, "pool": pools_figure}
    suite = records[0].suite
    if suite not in figures:
        raise SystemExit(f"--plot draws convolutions and pools, and these figures are of the suite {suite}")
    try:
        return figures[suite](machine, records)
    except InvalidBenchmark as error:
        raise SystemExit(str(error)) from None


def main() -> None:
    """Print tables, or put them between the markers of a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw convolutions, or pools, of float32")
    arguments = parser.parse_args()
    machine, records = read(arguments.file, GpuMachine)
    if arguments.plot is not None:
        save(figure(machine, records), arguments.plot)
    text = markdown(machine, records)
    if arguments.write is None:
        print(text)
        return
    page = arguments.write.read_text()
    begin = BEGIN[records[0].suite]
    before, rest = page.split(begin)
    _, after = rest.split(END, 1)
    arguments.write.write_text(f"{before}{begin}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
