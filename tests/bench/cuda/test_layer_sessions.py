"""Runs of convolutions and pools on a GPU, whose measurements are made up: what is shown, written and drawn."""

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("torch", reason="the GPU's benchmark times torch's tensors: pip install torch triton")
pytest.importorskip("triton", reason="the GPU's kernels are written in Triton: pip install triton")

import torch

from pytensor_convnet.bench import records
from pytensor_convnet.bench.cases import GPU_FORMATS
from pytensor_convnet.bench.cuda import findings, net_session, pool_session, session
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.session import InvalidBenchmark
from pytensor_convnet.commands import app
from pytensor_convnet.kernels.cuda import FORMATS
from tests.bench.cuda import test_pool_table, test_table
from tests.bench.cuda.test_table import MACHINE

SUITES = {session: (test_table.RECORDS, "alex1"), pool_session: (test_pool_table.RECORDS, "vgg_p22")}
both_suites = pytest.mark.parametrize("suite", SUITES, ids=["conv", "pool"])


@pytest.fixture
def asked(monkeypatch):
    """What was to be measured: case, peers, machine and settings; the first case of a suite gives all its records."""
    calls = []

    def measured_of(found, first):
        def measured(name, *settings):
            calls.append((name, *settings))
            yield from found if name == first else ()

        return measured

    monkeypatch.setattr(findings, "package_versions", lambda peers: {})
    monkeypatch.setattr(GpuMachine, "measured", lambda packages: MACHINE)
    for module, found in SUITES.items():
        monkeypatch.setattr(module, "measured", measured_of(*found))
    return calls


def run(suite, *arguments, **settings):
    """The records, and what was shown."""
    console = Console(record=True, width=120)
    found = suite.run_benchmark(console, *arguments, **settings)
    return found, console.export_text()


@both_suites
def test_figures_are_shown_and_written(suite, asked, tmp_path):
    made_up, case = SUITES[suite]
    found, text = run(suite, [case], ["torch"], tmp_path / "file.json")
    assert found == made_up
    assert records.read(tmp_path / "file.json", GpuMachine) == (MACHINE, made_up)
    assert "float32" in text
    assert "best peer / ours" in text


@both_suites
def test_a_chart_is_drawn(suite, asked, tmp_path):
    pytest.importorskip("matplotlib", reason="charts are matplotlib's: pip install matplotlib")
    _, text = run(suite, [SUITES[suite][1]], ["torch"], plot=tmp_path / "chart.png")
    assert "drawn" in text
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.format == "PNG"


@both_suites
def test_a_chart_without_peers_is_refused_before_anything_is_measured(suite, asked, tmp_path):
    with pytest.raises(InvalidBenchmark, match="--plot draws how this package compares with peers"):
        run(suite, [SUITES[suite][1]], [], plot=tmp_path / "chart.png")
    assert not asked


@both_suites
def test_a_chart_of_what_no_peer_was_measured_for_is_refused(suite, asked, tmp_path):
    with pytest.raises(InvalidBenchmark, match="none is here"):
        run(suite, ["odd"], ["torch"], plot=tmp_path / "chart.png")


@both_suites
def test_an_interrupt_shows_and_keeps_the_cases_before_it(suite, asked, tmp_path, monkeypatch):
    before = suite.measured

    def interrupted(name, *settings):
        if name == "odd":
            raise KeyboardInterrupt
        return before(name, *settings)

    monkeypatch.setattr(suite, "measured", interrupted)
    found, text = run(suite, [SUITES[suite][1], "odd"], ["torch"], tmp_path / "file.json")
    assert "interrupted; what is known by now:" in text
    assert records.read(tmp_path / "file.json", GpuMachine)[1] == found == SUITES[suite][0]


def test_a_second_run_adds_to_the_file_of_the_first(asked, tmp_path):
    path = tmp_path / "file.json"
    run(session, ["alex1"], ["torch"], path)
    found, _ = run(session, ["odd"], ["torch"], path, precisions=["high"])
    assert found == test_table.RECORDS


def test_what_was_asked_for_is_measured(asked):
    run(session, ["alex1"], ["torch"], formats=["bc01"], precisions=["bf16"])
    run(pool_session, ["vgg_p22"], ["torch"], formats=["channels_last"])
    assert asked == [
        ("alex1", ("torch",), MACHINE, ["bc01"], ["bf16"]),
        ("vgg_p22", ("torch",), MACHINE, ["channels_last"]),
    ]


def test_the_formats_are_those_of_the_kernels():
    assert sorted(GPU_FORMATS) == sorted(FORMATS)


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def begun(monkeypatch):
    """With what settings runs were begun, on a GPU that is not there."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (session, pool_session, net_session):
        monkeypatch.setattr(module, "run_benchmark", lambda console, *settings: calls.append(settings))
    return calls


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "120"})


def test_formats_and_precisions_of_convolutions_can_be_chosen(begun, tmp_path):
    options = "--cases", "odd", "--peers", "torch", "--formats", "bc01,batch_last", "--precisions", "high,bf16"
    result = bench("conv", "--device", "cuda", *options, "--plot", tmp_path / "chart.png")
    assert result.exit_code == 0, result.output
    assert begun == [(["odd"], ["torch"], None, ["bc01", "batch_last"], ["high", "bf16"], tmp_path / "chart.png")]


def test_formats_of_pools_can_be_chosen(begun, tmp_path):
    result = bench("pool", "--device", "cuda", "--cases", "p31", "--peers", "", "--formats", "channels_last")
    assert result.exit_code == 0, result.output
    assert begun == [(["p31"], [], None, ["channels_last"], None)]


def test_everything_is_measured_by_default(begun):
    assert bench("conv", "--device", "cuda", "--cases", "odd").exit_code == 0
    assert begun[0][3:5] == (list(GPU_FORMATS), ["medium", "high", "bf16"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["conv", "--formats", "c01b"], "--formats: 'c01b' is not one of batch_last, channels_last, bc01"),
        (["conv", "--precisions", "ieee"], "--precisions: 'ieee' is not one of medium, high, bf16"),
        (["pool", "--precisions", "medium"], "--precisions: only of convolutions and networks on a GPU"),
        (["net", "--formats", "bc01"], "--formats: only of convolutions and pools on a GPU"),
        (["net", "--plot", "chart.png"], "--plot: there is no chart of networks on a GPU"),
    ],
)
def test_what_a_suite_does_not_have_is_told(begun, arguments, message):
    result = bench(*arguments, "--device", "cuda")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not begun
