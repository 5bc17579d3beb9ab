"""The file of a run on a GPU: what is added to, what is replaced, and what is refused."""

from dataclasses import replace

import pytest
from rich.console import Console

pytest.importorskip("torch", reason="the GPU's benchmark times torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the GPU's kernels are written in Triton: pip install triton")

from pytensor_convnet.bench import records
from pytensor_convnet.bench.cuda import findings
from pytensor_convnet.bench.cuda.findings import Findings, present_peers
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.session import InvalidBenchmark
from tests.bench.cuda.test_table import MACHINE, RECORDS

NOW = replace(
    MACHINE, driver="580.65", cuda="13.0", python="3.11.9", commit="0123abc", packages={"torch": "2.11", "jax": "0.11"}
)


@pytest.fixture
def on(monkeypatch):
    """The machine that measures from now on."""

    def machine(found):
        monkeypatch.setattr(findings, "package_versions", lambda peers: {})
        monkeypatch.setattr(GpuMachine, "measured", lambda packages: found)

    machine(NOW)
    return machine


def test_a_run_goes_on_with_what_its_file_has(on, tmp_path):
    path = tmp_path / "file.json"
    Findings.of(path, ()).add(RECORDS[:3])
    Findings.of(path, ()).add(RECORDS[3:])
    assert records.read(path, GpuMachine) == (NOW, RECORDS)


def test_a_record_that_is_measured_again_is_replaced_where_it_stands(on, tmp_path):
    again = replace(RECORDS[1], seconds=7e-4, relative_error=1e-5)
    run = Findings.of(tmp_path / "file.json", ())
    run.add(RECORDS)
    run.add([again])
    assert run.records == [RECORDS[0], again, *RECORDS[2:]]


def test_the_ceilings_stay_those_of_the_first_run(on, tmp_path):
    path = tmp_path / "file.json"
    Findings.of(path, ()).add(RECORDS[:1])
    on(replace(NOW, copy_bytes_per_second=1e12))
    assert Findings.of(path, ()).machine == NOW


def test_packages_of_both_runs_are_told(on, tmp_path):
    path = tmp_path / "file.json"
    on(replace(NOW, packages={"torch": "2.11"}))
    Findings.of(path, ()).add(RECORDS[:1])
    on(NOW)
    assert Findings.of(path, ()).machine.packages == {"torch": "2.11", "jax": "0.11"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"processor": "Another"}, "processor A GPU, now Another"),
        ({"driver": "590.1"}, "driver 580.65, now 590.1"),
        ({"commit": "0123abc+"}, "commit 0123abc, now 0123abc+"),
        ({"packages": {"torch": "2.12"}}, "torch 2.11, now 2.12"),
    ],
)
def test_a_file_of_another_machine_or_of_other_versions_is_not_added_to(on, tmp_path, change, told):
    path = tmp_path / "file.json"
    Findings.of(path, ()).add(RECORDS[:1])
    before = path.read_bytes()
    on(replace(NOW, **change))
    with pytest.raises(InvalidBenchmark, match="of another machine or other versions") as refused:
        Findings.of(path, ())
    assert str(refused.value).endswith(told)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_not_added_to(on, tmp_path):
    (tmp_path / "file.json").write_text("{}")
    with pytest.raises(InvalidBenchmark, match="--json adds to files of such figures"):
        Findings.of(tmp_path / "file.json", ())


def test_without_a_file_records_are_kept_in_memory(on):
    run = Findings.of(None, ())
    run.add(RECORDS)
    assert (run.machine, run.records) == (NOW, RECORDS)


def test_peers_that_are_not_installed_are_told_and_left_out():
    console = Console(record=True, width=120)
    assert present_peers(console, ["torch", "not_a_package"]) == ("torch",)
    assert "not measured, for it is not installed: not_a_package" in console.export_text()
