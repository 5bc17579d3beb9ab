"""The Markdown tables of `benchmarks/cuda_tables.py`."""

import json
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the machine of these figures is torch's: pip install torch")

from pytensor_convnet.bench import records
from tests.bench.cuda.test_net_table import RECORDS as NET_RECORDS
from tests.bench.cuda.test_pool_table import RECORDS as POOL_RECORDS
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


def test_pools_are_told_beside_their_floor_with_means(tmp_path, monkeypatch, capsys):
    run(monkeypatch, written(tmp_path, "pool.json", POOL_RECORDS))
    printed = capsys.readouterr().out
    assert "| case | | floor | bc01 | torch, bc01 | JAX, bc01 | torch, channels-last |" in printed
    assert "| vgg_p22 | forward | 100.0 | 200.0 (2.00) | 400 | 300 | - |" in printed
    assert "best peer / ours in bc01, forward and backward together: 2.00; the least is 1.00 (p31)." in printed


def pooled_record(dtype, forward, gradients):
    ours = {"forward": forward, "gradients": gradients, "filter_gradient": 10.0}
    pair = {"pair_forward": 20.0, "pair_gradients": 60.0, "pair_filter_gradient": 30.0}
    errors = {"maxima": 1e-4, "input_grad": 3e-4, "filter_grad": 2e-4}
    return {"case": "alex1", "dtype": dtype, "precision": "medium", "microseconds": ours | pair, "errors": errors}


POOLED_RECORDS = [pooled_record("bfloat16", 5.0, 15.0), pooled_record("float32", 10.0, 30.0)]


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({"gpu": "A GPU", "torch": "2.11"}, "A GPU: torch 2.11."),
        (asdict(replace(MACHINE, driver="580.65", commit="0123abc")), "torch 2.11, driver 580.65, commit 0123abc."),
    ],
    ids=["old", "new"],
)
def test_pooled_correlations_are_told_beside_the_pair(tmp_path, monkeypatch, capsys, machine, told):
    file = tmp_path / "conv-pool.json"
    file.write_text(json.dumps({"machine": machine, "records": POOLED_RECORDS}))
    run(monkeypatch, file)
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("A GPU: ")
    assert first.endswith(told)
    assert rows[3:5] == [
        "| alex1 | float32 | 10, 20, **2.00x** | 30, 60, **2.00x** | 10, 30, **3.00x** | **2.00x** | **2.50x** |",
        "| alex1 | bfloat16 | 5, 20, **4.00x** | 15, 60, **4.00x** | 10, 30, **3.00x** | **4.00x** | **3.33x** |",
    ]
    assert "of all: forward 2.00, 4.00, 2.83; forward + both 2.00, 4.00, 2.83; " in rows[6]
    assert rows[7].endswith("maxima 1.0e-04, 1.0e-04; gradients 3.0e-04, 3.0e-04.")


@pytest.mark.parametrize("has_all", [True, False])
def test_a_pair_with_gradients_as_one_is_told_where_all_layers_have_it(tmp_path, monkeypatch, capsys, has_all):
    record = json.loads(json.dumps(POOLED_RECORDS[1]))
    record["microseconds"]["pair_joint_gradients"] = 40.0
    file = tmp_path / "conv-pool.json"
    layers = [record] if has_all else [POOLED_RECORDS[0], record]
    file.write_text(json.dumps({"machine": {"gpu": "A GPU", "torch": "2.11"}, "records": layers}))
    run(monkeypatch, file)
    printed = capsys.readouterr().out
    assert ("| forward + both | forward + both, the pair's as one | forward + filter gradient |" in printed) == has_all
    assert ("**2.00x** | **1.50x** | **2.50x** |" in printed) == has_all
    assert printed.count("the pair's as one") == 2 * has_all


@pytest.mark.parametrize("suite", ["pool", "conv_pool"])
def test_pools_go_between_markers_of_their_own(tmp_path, monkeypatch, suite):
    file = written(tmp_path, "file.json", POOL_RECORDS)
    if suite == "conv_pool":
        file.write_text(json.dumps({"machine": {"gpu": "A GPU", "torch": "2.11"}, "records": POOLED_RECORDS}))
    page = tmp_path / "page.md"
    page.write_text(f"a\n<!-- measured: {suite} -->\nold\n<!-- end of measured -->\nb\n")
    run(monkeypatch, file, "--write", page)
    assert page.read_text().startswith(f"a\n<!-- measured: {suite} -->\nA GPU: ")
    assert page.read_text().endswith("<!-- end of measured -->\nb\n")
    assert "old" not in page.read_text()


def test_figures_of_a_second_gpu_have_a_mark_of_their_own(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    first = "<!-- measured: pool -->\nfirst\n<!-- end of measured -->\n"
    page.write_text(first + "<!-- measured: second -->\n<!-- end of measured -->\n")
    run(monkeypatch, written(tmp_path, "pool.json", POOL_RECORDS), "--write", page, "--mark", "second")
    before, after = page.read_text().split("<!-- measured: second -->\n")
    assert before == first
    assert after.startswith("A GPU: ")


def test_a_page_without_a_place_for_figures_is_left_as_it_is(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("a\n")
    with pytest.raises(SystemExit, match="has no place for these figures: <!-- measured: pool -->"):
        run(monkeypatch, written(tmp_path, "pool.json", POOL_RECORDS), "--write", page)
    assert page.read_text() == "a\n"


@pytest.mark.parametrize("name", ["conv-h100", "conv-pool-h100", "pool-h100", "net-h100"])
def test_the_committed_figures_are_read(monkeypatch, capsys, name):
    run(monkeypatch, SCRIPT.parent / "results" / f"{name}.json")
    assert capsys.readouterr().out.startswith("NVIDIA H100 80GB HBM3: ")
