"""The Markdown tables of `benchmarks/cuda_tables.py`."""

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the machine of these figures is torch's: pip install torch")

from pytensor_convnet.bench import records
from tests.bench.cuda.test_net_table import RECORDS as NET_RECORDS
from tests.bench.cuda.test_table import MACHINE
from tests.bench.cuda.test_table import RECORDS as CONV_RECORDS

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "cuda_tables.py"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cuda_tables.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def written(folder, name, some):
    records.write(folder / name, MACHINE, some)
    return folder / name


def test_networks_are_told_in_the_better_layout_with_ratio_first_step_and_losses(tmp_path, monkeypatch, capsys):
    run(monkeypatch, written(tmp_path, "net.json", NET_RECORDS))
    printed = capsys.readouterr().out
    assert printed.startswith("A GPU: tf32 379 TFLOP/s")
    assert "| case | ours | torch captured | jax | best peer / ours |" in printed
    assert "| lenet | 100 (4.0, 8.0) | 300, channels last (10.0, 20.0) | 350, bc01 (2.5, 5.0) | **3.00x** |" in printed
    assert "| alexnet | 900 (4.0, 8.0) | - | - | - |" in printed
    assert "Medium: losses of the first steps differ from float64's by at most 2.0e-04" in printed


def test_each_suite_goes_between_markers_of_its_own(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    end = "<!-- end of measured -->"
    page.write_text(f"a\n<!-- measured: net -->\nold\n{end}\nb\n<!-- measured: conv -->\nold\n{end}\nc\n")
    files = [written(tmp_path, "net.json", NET_RECORDS), written(tmp_path, "conv.json", CONV_RECORDS)]
    for file in files * 2:
        run(monkeypatch, file, "--write", page)
    net, conv = page.read_text().split("\nb\n")
    assert net.count("| lenet |") == conv.count("| alex1 |")
    assert net.startswith("a\n")
    assert conv.endswith(f"{end}\nc\n")
    assert "old" not in net + conv


def test_the_page_of_the_mode_has_a_place_for_them(tmp_path, monkeypatch):
    page = tmp_path / "cuda-mode.md"
    page.write_text((SCRIPT.parent.parent / "docs" / "cuda-mode.md").read_text())
    run(monkeypatch, written(tmp_path, "net.json", NET_RECORDS), "--write", page)
    assert "| lenet | 100 (4.0, 8.0) |" in page.read_text()


def test_convolutions_are_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="charts are matplotlib's: pip install matplotlib")
    run(monkeypatch, written(tmp_path, "conv.json", CONV_RECORDS), "--plot", tmp_path / "conv.png")
    assert (tmp_path / "conv.png").read_bytes().startswith(b"\x89PNG")


def test_networks_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="--plot draws convolutions and pools"):
        run(monkeypatch, written(tmp_path, "net.json", NET_RECORDS), "--plot", tmp_path / "net.png")
