"""Records as JSON, there and back."""

import json

import pytest

from pytensor_convnet.bench import records
from tests.bench.made_up import CONV_RECORDS, MACHINE, record


def test_what_is_written_can_be_read(tmp_path):
    written = [*CONV_RECORDS, record(floor_seconds=None, relative_error=None, extra_bytes=None)]
    records.write(tmp_path / "file.json", MACHINE, written)
    assert records.read(tmp_path / "file.json") == (MACHINE, written)


def test_the_format(tmp_path):
    records.write(tmp_path / "file.json", MACHINE, CONV_RECORDS[:1])
    content = json.loads((tmp_path / "file.json").read_text())
    assert set(content) == {"machine", "records"}
    assert content["machine"]["processor"] == "A Processor"
    assert content["records"] == [
        {
            "suite": "conv",
            "case": "lenet1",
            "operation": "forward",
            "device": "cpu",
            "dtype": "float32",
            "precision": "ieee",
            "implementation": "pytensor-convnet",
            "layout": "bc01",
            "seconds": 0.001,
            "floor_seconds": 0.0005,
            "relative_error": 1e-07,
            "extra_bytes": 3000000,
        }
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("machine"), "expected an object of a machine and a list of records"),
        (lambda content: content.update(records="none"), "expected an object of a machine and a list of records"),
        (lambda content: content["machine"].pop("threads"), "machine: expected an object of processor, system"),
        (lambda content: content["machine"].update(driver="580"), "machine: expected an object of processor, system"),
        (lambda content: content["machine"].update(threads="two"), "machine: threads must be int, got 'two'"),
        (lambda content: content["machine"].update(packages={"numpy": 2}), "machine: packages must be dict"),
        (lambda content: content["records"][1].pop("case"), "record 1: expected an object of suite, case, operation"),
        (lambda content: content["records"].append(7), "record 12: expected an object of suite, case, operation"),
        (lambda content: content["records"][0].update(seconds="1"), "record 0: seconds must be float, got '1'"),
        (lambda content: content["records"][0].update(seconds=True), "record 0: seconds must be float, got True"),
        (lambda content: content["records"][2].update(extra_bytes=0.5), "record 2: extra_bytes must be int | None"),
        (lambda content: content["records"][2].update(operation="train"), "record 2: operation must be one of forward"),
    ],
)
def test_what_is_not_of_the_format_is_told(tmp_path, change, message):
    path = tmp_path / "file.json"
    records.write(path, MACHINE, CONV_RECORDS)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(records.InvalidRecords) as told:
        records.read(path)
    assert str(told.value).startswith(f"{path}: {message}")


def test_what_is_not_json_is_told(tmp_path):
    (tmp_path / "file.json").write_text("{")
    with pytest.raises(records.InvalidRecords, match="file.json: not JSON"):
        records.read(tmp_path / "file.json")
