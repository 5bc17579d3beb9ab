"""What is made of the figures of pools on a GPU."""

import pytest

pytest.importorskip("torch", reason="the GPU's benchmark times torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the GPU's kernels are written in Triton: pip install triton")

from pytensor_convnet.bench.cuda.pool_table import figures_table, rows_of, standing_lines
from pytensor_convnet.bench.records import Record


def record(implementation, layout, operation, seconds, case="vgg_p22"):
    measured = seconds, 1e-4, 0.0, None
    return Record("pool", case, operation, "cuda", "float32", "ieee", implementation, layout, *measured)


RECORDS = [
    record("pytensor-convnet", "bc01", "forward", 2e-4),
    record("torch", "bc01", "forward", 4e-4),
    record("jax", "bc01", "forward", 3e-4),
    record("pytensor-convnet", "bc01", "backward", 1e-4),
    record("torch", "bc01", "backward", 9e-4),
    record("pytensor-convnet", "bc01", "forward", 1e-4, "p31"),
    record("torch", "channels_last", "forward", 1e-4, "p31"),
]


def test_records_of_one_operation_stand_in_one_row():
    rows = rows_of(RECORDS, "float32")
    assert [len(row) for row in rows.values()] == [3, 2, 2]
    assert not rows_of(RECORDS, "bfloat16")


def test_the_best_peer_of_each_operation_counts_and_operations_of_a_case_are_added():
    [line] = standing_lines(RECORDS, "float32")
    assert line == "float32, bc01: best peer / ours, forward and backward 2.00, worst 1.00 (p31)"


def test_ours_is_told_as_a_multiple_of_the_floor():
    table = figures_table(RECORDS, "float32")
    assert [str(cell) for cell in table.columns[3].cells] == ["200.0 (2.00)", "100.0 (1.00)", "100.0 (1.00)"]
    assert [str(cell) for cell in table.columns[4].cells] == ["400.0", "900.0", "-"]


def test_without_peers_nothing_is_compared():
    assert not list(standing_lines(RECORDS[:1], "float32"))
