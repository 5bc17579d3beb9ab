"""The Markdown tables of `benchmarks/tables.py`."""

import runpy
import sys
from pathlib import Path

from pytensor_convnet.bench import records
from tests.bench.made_up import CONV_RECORDS, MACHINE, record

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "tables.py"
POOL_RECORDS = [
    record("cifar_p32", operation, name, layout, suite="pool", seconds=seconds)
    for operation in ("forward", "backward")
    for name, layout, seconds in (("pytensor-convnet", "bc01", 1e-3), ("torch", "bc01", 3e-3))
]
NET_RECORDS = [
    record("lenet", "step", name, layout, suite="net", seconds=seconds, floor_seconds=None)
    for name, layout, seconds in (("pytensor-convnet", "bc01", 20e-3), ("torch", "channels_last", 50e-3))
]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tables.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def written(folder, name, some):
    records.write(folder / name, MACHINE, some)
    return folder / name


def test_figures_ratios_and_means(tmp_path, monkeypatch, capsys):
    run(monkeypatch, written(tmp_path, "conv.json", CONV_RECORDS))
    printed = capsys.readouterr().out
    assert "A Processor, 2 threads" in printed
    # 500 x 20 x 24 x 24 outputs of 25 products each in 1 ms.
    assert "| lenet1 | 288 (2.00, 4.00, 8.00) | 288 (0.50, 0.50, 0.25) | 1.00, 1.41, 1.41 |" in printed
    assert "| geometric mean | 2.00, 4.00, 8.00 | 0.50, 0.50, 0.25 | 1.26, 2.00, 2.52 |" in printed
    assert "| the same of lenet1 | 2.00, 4.00, 8.00 | 0.50, 0.50, 0.25 | 1.00, 1.41, 1.41 |" in printed
    assert "-" in next(line for line in printed.splitlines() if line.startswith("| cifar2")).split("|")[3]


def test_several_files_and_suites_between_markers(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    suites = ("conv", "pool", "net")
    page.write_text("first\n" + "".join(f"<!-- {s} table -->\nold\n<!-- /{s} table -->\n{s} last\n" for s in suites))
    lenet, cifar = CONV_RECORDS[:8], CONV_RECORDS[8:]
    files = [written(tmp_path, f"{i}.json", part) for i, part in enumerate((lenet, cifar, POOL_RECORDS + NET_RECORDS))]
    for _ in range(2):
        run(monkeypatch, *files, "--write", page)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("first\n<!-- conv table -->\nA Processor")
    assert "<!-- /net table -->\nnet last\n" in text
    assert text.count("| lenet1 |") == text.count("| cifar2 |") == 1
    assert "| cifar_p32 | 1.00, 2.0x (3.00, 3.00) | 1.00, 2.0x (3.00, 3.00) | 3.00, 3.00 |" in text
    assert "| case | ours | torch, channels last |" in text
    assert "| lenet | 20.0 | 50.0 (2.50) |" in text
