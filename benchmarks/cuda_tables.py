"""Markdown tables of figures of a GPU, which ``pytensor-convnet bench --device cuda`` and ``conv_pool_cuda.py`` write.

python benchmarks/cuda_tables.py benchmarks/results/conv-h100.json                                # prints them
python benchmarks/cuda_tables.py benchmarks/results/conv-h100.json --write docs/cuda-kernels.md   # puts them in place
python benchmarks/cuda_tables.py benchmarks/results/conv-h100.json --plot docs/bench-conv-cuda.png      # draws them
python benchmarks/cuda_tables.py benchmarks/results/conv-pool-h100.json --write docs/cuda-kernels.md
python benchmarks/cuda_tables.py benchmarks/results/conv-pool-h200.json --write docs/cuda-kernels.md \\
    --mark "conv_pool on an H200"
python benchmarks/cuda_tables.py benchmarks/results/pool-h100.json --write docs/cuda-pooling.md
python benchmarks/cuda_tables.py benchmarks/results/net-h100.json --write docs/cuda-mode.md

In place is between ``<!-- measured: conv -->``, or conv_pool, pool or net, and ``<!-- end of measured -->``; ``--mark``
names another beginning, of figures of a second GPU.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from pytensor_convnet.bench.cuda import net_table, pool_table
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

BEGIN = "<!-- measured: {mark} -->"
END = "<!-- end of measured -->"
OPERATIONS = ("forward", "input_grad", "filter_grad")
COMBINATIONS = (("float32", "medium"), ("float32", "high"), ("bfloat16", "medium"))
DTYPES = ("float32", "bfloat16")
LAYOUTS = {"batch_last": "batch-last", "channels_last": "channels-last", "bc01": "bc01"}
NAMES = {"torch": "torch", "jax": "JAX"}


def machine_line(machine: GpuMachine) -> str:
    """The GPU, its ceilings, and the versions of what was measured, as far as they are known."""
    others = {"CUDA": machine.cuda, "driver": machine.driver, "Python": machine.python, "commit": machine.commit}
    packages = ", ".join(f"{name} {version}" for name, version in (machine.packages | others).items() if version)
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


def pool_table_lines(records: Sequence[Record], dtype: str) -> Iterator[str]:
    """A row for each operation of each pool: microseconds of all; of ours in each format, as multiples of the floor."""
    rows = pool_table.rows_of(records, dtype)
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    heads = [LAYOUTS[layout] if name == OURS else f"{NAMES[name]}, {LAYOUTS[layout]}" for name, layout in columns]
    yield f"**{dtype}**: microseconds, and in brackets ours as a multiple of the floor"
    yield ""
    yield f"| case | | floor | {' | '.join(heads)} |"
    yield "| --- | --- |" + " ---: |" * (1 + len(columns))
    for (case, operation), row in rows.items():
        floor = next(iter(row.values())).floor_seconds or 0
        yield f"| {case} | {operation} | {1e6 * floor:.1f} | {' | '.join(_pool_cell(row.get(c)) for c in columns)} |"
    yield ""
    found = pool_table.ratios_of(rows)
    for layout, ratios in found.items():
        least = min(ratios, key=lambda case: ratios[case])
        yield (
            f"Geometric mean of best peer / ours in {LAYOUTS[layout]}, forward and backward together: "
            f"{geometric_mean(ratios.values()):.2f}; the least is {ratios[least]:.2f} ({least})."
        )
    yield ""


def _pool_cell(record: Record | None) -> str:
    if record is None:
        return "-"
    if record.implementation != OURS:
        return f"{1e6 * record.seconds:.0f}"
    return f"{1e6 * record.seconds:.1f} ({record.seconds / (record.floor_seconds or float('nan')):.2f})"


POOLED = {"forward": "forward", "both gradients": "gradients", "filter gradient alone": "filter_gradient"}
SUMS = {
    "forward + both": ("forward", "gradients"),
    "forward + both, the pair's as one": ("forward", "joint_gradients"),
    "forward + filter gradient": ("forward", "filter_gradient"),
}
"""The columns of pooled correlations: what of `conv_pool_cuda.py` is measured, and what is added. The pair has its
gradients one by one or, not in the first files, as one; the fused functions have one way."""


def pooled_ratio(record: dict[str, Any], parts: Sequence[str]) -> float:
    """How many times as long as the fused functions the pair of a correlation and a pool takes."""
    times = record["microseconds"]
    return sum(times[f"pair_{part}"] for part in parts) / sum(times[part.removeprefix("joint_")] for part in parts)


def conv_pool_lines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A row for each layer in each dtype: microseconds of ours and of the pair, and their ratio."""
    sums = {
        name: parts
        for name, parts in SUMS.items()
        if all(f"pair_{part}" in record["microseconds"] for record in records for part in parts)
    }
    yield f"| case | | {' | '.join((*POOLED, *sums))} |"
    yield "|---|---|" + "---|" * len((*POOLED, *sums))
    by_dtype = {dtype: [record for record in records if record["dtype"] == dtype] for dtype in DTYPES}
    for record in (record for found in by_dtype.values() for record in found):
        times = record["microseconds"]
        cells = [
            f"{times[part]:.0f}, {times[f'pair_{part}']:.0f}, **{pooled_ratio(record, [part]):.2f}x**"
            for part in POOLED.values()
        ]
        cells += [f"**{pooled_ratio(record, parts):.2f}x**" for parts in sums.values()]
        yield f"| {record['case']} | {record['dtype']} | {' | '.join(cells)} |"
    yield ""
    means = [
        f"{name} " + ", ".join(_pooled_mean(found, parts) for found in (*by_dtype.values(), records))
        for name, parts in {"forward": ("forward",), **sums}.items()
    ]
    yield f"Geometric means, of float32, of bfloat16 and of all: {'; '.join(means)}."
    errors = [
        f"{name} {', '.join(_largest_error(found, keys) for found in by_dtype.values())}"
        for name, keys in (("maxima", ["maxima"]), ("gradients", ["input_grad", "filter_grad"]))
    ]
    yield f"Largest errors, of float32 and of bfloat16: {'; '.join(errors)}."
    yield ""


def _pooled_mean(records: Sequence[dict[str, Any]], parts: Sequence[str]) -> str:
    return f"{geometric_mean(pooled_ratio(record, parts) for record in records):.2f}" if records else "-"


def _largest_error(records: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    errors = [record["errors"][name] for record in records for name in names]
    return f"{max(errors):.1e}" if errors else "-"


def conv_pool_markdown(machine: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    """The table of pooled correlations; the first files knew a GPU's name and torch's version."""
    if "gpu" in machine:
        line = f"{machine['gpu']}: torch {machine['torch']}."
    else:
        line = machine_line(GpuMachine(**machine))
    return "\n".join([line, "", *conv_pool_lines(records)])


def markdown(machine: GpuMachine, records: Sequence[Record]) -> str:
    """All tables of one suite."""
    lines = [machine_line(machine), ""]
    if records[0].suite == "net":
        for precision in dict.fromkeys(record.precision for record in records):
            lines += net_table_lines(records, precision)
    elif records[0].suite == "pool":
        for dtype in DTYPES:
            lines += pool_table_lines(records, dtype)
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
    parser.add_argument("--mark", metavar="NAME", help="the place in the page (default: the suite)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw convolutions, or pools, of float32")
    arguments = parser.parse_args()
    content = json.loads(arguments.file.read_text())
    if "microseconds" in content["records"][0]:
        suite, text = "conv_pool", conv_pool_markdown(content["machine"], content["records"])
        if arguments.plot is not None:
            raise SystemExit("--plot draws convolutions and pools, and these are pooled correlations")
    else:
        machine, records = read(arguments.file, GpuMachine)
        suite, text = records[0].suite, markdown(machine, records)
        if arguments.plot is not None:
            save(figure(machine, records), arguments.plot)
    if arguments.write is None:
        print(text)
        return
    page, begin = arguments.write.read_text(), BEGIN.format(mark=arguments.mark or suite)
    if begin not in page:
        raise SystemExit(f"{arguments.write} has no place for these figures: {begin} ... {END}")
    before, rest = page.split(begin)
    _, after = rest.split(END, 1)
    arguments.write.write_text(f"{before}{begin}\n{text}{END}{after}")


if __name__ == "__main__":
    main()
