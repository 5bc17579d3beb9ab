"""What is made of the figures of a run on a GPU."""

import json

import pytest

pytest.importorskip("torch")

from pytensor_convnet.bench import records
from pytensor_convnet.bench.cuda.table import (
    best_of_ours,
    best_peer,
    compared_layout,
    figures_table,
    rows_of,
    standing_lines,
)
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import Record

MACHINE = GpuMachine("A GPU", {"torch": "2.11"}, 379e12, 709e12, 3e12)


def record(implementation, layout, seconds, case="alex1", precision="medium"):
    measured = seconds, 1e-4, 3e-4, 0
    return Record("conv", case, "forward", "cuda", "float32", precision, implementation, layout, *measured)


RECORDS = [
    record("pytensor-convnet", "batch_last", 2e-4),
    record("pytensor-convnet", "channels_last", 4e-4),
    record("torch", "channels_last", 6e-4),
    record("torch", "bc01", 9e-4),
    record("pytensor-convnet", "batch_last", 3e-4, "cb5"),
    record("torch", "channels_last", 3e-4, "cb5"),
    record("pytensor-convnet", "batch_last", 3e-4, precision="high"),
]


def test_records_of_one_operation_stand_in_one_row():
    row = rows_of(RECORDS, "float32", "medium")["alex1", "forward"]
    assert len(row) == 4
    assert best_peer(row) == 6e-4
    assert best_of_ours(row) == 2e-4


def test_beside_our_precise_figures_stand_the_others_usual_ones():
    row = rows_of(RECORDS, "float32", "high")["alex1", "forward"]
    assert row["pytensor-convnet", "batch_last"].seconds == 3e-4
    assert best_peer(row) == 6e-4


def test_means_and_the_worst_ratio_are_told():
    line = standing_lines(RECORDS)[0]
    assert line == (
        "float32 medium, batch_last: best peer / ours 1.73, few channels or strided 3.00, worst 1.00 (cb5 forward)"
    )


def test_the_table_has_a_row_for_each_operation():
    table = figures_table(RECORDS, "float32", "medium")
    assert table.row_count == 2
    assert [str(cell) for cell in table.columns[-2].cells] == ["3.00", "1.00"]


def test_records_of_a_gpu_are_written_and_read(tmp_path):
    records.write(tmp_path / "file.json", MACHINE, RECORDS)
    assert records.read(tmp_path / "file.json", GpuMachine) == (MACHINE, RECORDS)


def test_a_file_from_before_drivers_and_commits_were_told_is_read(tmp_path):
    path = tmp_path / "file.json"
    records.write(path, MACHINE, RECORDS)
    content = json.loads(path.read_text())
    for name in ("driver", "cuda", "python", "commit"):
        del content["machine"][name]
    path.write_text(json.dumps(content))
    assert records.read(path, GpuMachine) == (MACHINE, RECORDS)


@pytest.mark.parametrize(("ours", "layout"), [(RECORDS, "batch_last"), (RECORDS[1:4], "channels_last")])
def test_ours_is_compared_in_batch_last_or_what_was_measured(ours, layout):
    assert compared_layout(ours) == layout
    assert figures_table(ours, "float32", "medium").row_count
    assert standing_lines(ours)[0].startswith(f"float32 medium, {layout}: ")
