"""What is made of the figures of networks on a GPU."""

import pytest

pytest.importorskip("torch", reason="the GPU's benchmark is imported with it: pip install torch")

from pytensor_convnet.bench.cuda.net_table import (
    best_peer,
    first_steps_table,
    loss_lines,
    ratio,
    rows_of,
    standing_lines,
    steps_table,
)
from pytensor_convnet.bench.records import Record


def two_records(implementation, layout, seconds, first_seconds, case="lenet", precision="medium", error=1e-4):
    def record(operation, seconds, error):
        dtype = {"medium": "float32", "bf16": "bfloat16"}[precision]
        measured = seconds, None, error, None
        return Record("net", case, operation, "cuda", dtype, precision, implementation, layout, *measured)

    first = record("first_step", first_seconds / 2, None), record("first_steps", first_seconds, None)
    return [record("step", seconds, error), *first]


RECORDS = [
    *two_records("torch captured", "bc01", 4e-4, 10),
    *two_records("torch captured", "channels_last", 3e-4, 20, error=2e-4),
    *two_records("pytensor-convnet", "bc01", 1e-4, 8),
    *two_records("jax", "bc01", 3.5e-4, 5),
    *two_records("pytensor-convnet", "bc01", 9e-4, 8, case="alexnet"),
    *two_records("torch captured", "bc01", 2e-4, 6, precision="bf16", error=5e-3),
]


def test_each_implementation_is_told_in_the_better_layout():
    row = rows_of(RECORDS, "medium")["lenet"]
    assert {name: (r.layout, r.seconds) for name, r in row.items()} == {
        "torch captured": ("channels_last", 3e-4),
        "pytensor-convnet": ("bc01", 1e-4),
        "jax": ("bc01", 3.5e-4),
    }
    assert best_peer(row).implementation == "torch captured"
    assert ratio(row) == pytest.approx(3)


def test_the_first_step_is_told_in_the_layout_whose_steps_are_faster():
    assert rows_of(RECORDS, "medium", "first_steps")["lenet"]["torch captured"].seconds == 20


@pytest.mark.parametrize(("precision", "case"), [("medium", "alexnet"), ("bf16", "lenet")])
def test_what_was_measured_of_one_side_only_is_not_compared(precision, case):
    assert ratio(rows_of(RECORDS, precision)[case]) is None


def test_the_table_has_a_row_for_each_network_and_ours_first():
    table = steps_table(RECORDS, "medium")
    assert [column.header for column in table.columns] == [
        *("case", "ours", "torch\ncaptured", "jax", "best peer /\nours")
    ]
    assert [list(column.cells) for column in table.columns] == [
        ["lenet", "alexnet"],
        ["100\nbc01", "900\nbc01"],
        ["300\nchannels last", "-"],
        ["350\nbc01", "-"],
        ["3.00", "-"],
    ]


def test_first_steps_of_all_precisions_stand_in_one_table():
    table = first_steps_table(RECORDS)
    assert list(table.columns[0].cells) == ["lenet, medium", "alexnet, medium", "lenet, bf16"]
    assert list(table.columns[1].cells) == ["4.0, 8.0", "4.0, 8.0", "-, -"]


def test_the_best_peer_is_named():
    assert list(standing_lines(RECORDS, "medium")) == [
        "lenet, medium: best peer / ours 3.00 (torch captured, channels_last)"
    ]


def test_the_largest_difference_of_losses_is_told():
    assert list(loss_lines(RECORDS, "bf16")) == [
        "bf16: losses of the first steps differ from float64's by at most 5.0e-03 (lenet: torch captured, bc01)"
    ]
    assert not list(loss_lines([], "medium"))


def test_who_computes_something_else_is_named():
    _, line = loss_lines([*RECORDS, *two_records("jax", "bc01", 1e-4, 1, error=0.02)], "medium")
    assert line == ("COMPUTES SOMETHING ELSE: lenet, medium: jax, bc01: its losses differ from float64's by 2.0e-02")


def test_where_rounding_grows_all_are_off_and_nobody_is_named():
    kinds = "pytensor-convnet", "torch eager", "jax"
    grown = [record for kind in kinds for record in two_records(kind, "bc01", 1e-4, 1, error=0.02)]
    assert len(list(loss_lines(grown, "medium"))) == 1
