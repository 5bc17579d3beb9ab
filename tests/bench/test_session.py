"""The command `bench`, from its arguments to tables and files."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from pytensor_convnet.bench import records, session, suite
from pytensor_convnet.bench.peers import PEERS
from pytensor_convnet.commands import app
from tests.bench.made_up import CONV_RECORDS, MACHINE, TINY_CONV


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "120"})


def failure(*arguments, code):
    result = bench(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def no_peers(monkeypatch):
    for peer in PEERS.values():
        monkeypatch.setattr(peer, "is_installed", lambda: False)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(suite.SUITES["conv"], "tiny", TINY_CONV)
    monkeypatch.setattr(records.Machine, "measured", lambda threads: MACHINE)


@pytest.mark.usefixtures("no_peers", "tiny")
def test_ours_alone(tmp_path):
    result = bench("conv", "--cases", "tiny", "--seconds", 0, "--json", tmp_path / "file.json")
    assert result.exit_code == 0, result.output
    output = result.stdout
    assert "not measured, for it is not installed: torch (pip install torch)" in output
    assert "not measured, for it is not installed: jax (pip install jax)" in output
    assert "pytensor-ml" not in output  # has no part in this suite
    for told in ("tiny", "forward", "input grad", "filter grad", "of the bound", "largest extra memory", "written"):
        assert told in output
    assert all(character.isprintable() or character == "\n" for character in output)
    machine, found = records.read(tmp_path / "file.json")
    assert machine == MACHINE
    assert [r.operation for r in found] == ["forward", "input_grad", "filter_grad"]


@pytest.fixture
def made_up(monkeypatch):
    """A run that takes no time and finds what was made up."""

    def run(*arguments, on_step, **others):
        on_step("lenet1: forward")
        yield from CONV_RECORDS

    class Instant:
        suites = ("conv",)
        layouts = ("bc01",)

        def __init__(self, *arguments):
            pass

    from pytensor_convnet.bench.peers import ours

    monkeypatch.setattr(records.Machine, "measured", lambda threads: MACHINE)
    monkeypatch.setattr(ours, "Ours", Instant)
    monkeypatch.setattr(session, "run", run)
    for name in PEERS:
        monkeypatch.setitem(session.PEERS, name, Instant)
    monkeypatch.setattr(Instant, "is_installed", lambda: True, raising=False)


@pytest.mark.usefixtures("made_up")
def test_tables_and_chart_of_a_comparison(tmp_path):
    result = bench("conv", "--plot", tmp_path / "chart.png")
    assert result.exit_code == 0, result.output
    for told in ("torch", "channels", "the best of all peers", "2.00", "few channels", "drawn"):
        assert told in result.stdout
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.usefixtures("made_up")
def test_an_interrupt_shows_what_is_known(monkeypatch, tmp_path):
    def run(*arguments, **others):
        yield from CONV_RECORDS[:6]
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run", run)
    result = bench("conv", "--json", tmp_path / "file.json")
    assert result.exit_code == 0, result.output
    assert "interrupted" in result.stdout
    assert "input grad" in result.stdout
    assert "cifar2" not in result.stdout
    assert len(records.read(tmp_path / "file.json")[1]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nets"], "'nets' is not one of conv, pool, net"),
        (["conv", "--device", "cuda"], "--device: cuda needs"),
        (["conv", "--device", "tpu"], "'tpu' is not one of cpu, cuda"),
        (["pool", "--cases", "p31,p32"], "--cases: 'p32' is not one of lenet_p22, cifar_p32,"),
        (["conv", "--peers", "torch,theano"], "--peers: 'theano' is not one of torch, jax"),
        (["conv", "--peers", "pytensor-ml"], "--peers: 'pytensor-ml' is not one of torch, jax"),
        (["net", "--device", "cuda", "--precisions", "medium,high"], "--precisions: 'high' is not one of medium, bf16"),
        (["net", "--precisions", "bf16"], "--precisions: only of convolutions and networks on a GPU"),
        (["conv", "--threads", "0"], "--threads"),
        (["conv", "--seconds", "-1"], "--seconds"),
    ],
)
def test_wrong_usage_is_status_2_and_told(arguments, message):
    assert message in failure(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "9999"], "--threads must be from 1 to"),
        (["--exclude", "fusion,confusion"], "--exclude: PyTensor has no rewrite 'confusion'"),
        (["--json", "no/such/folder/file.json"], "there is no folder no/such/folder"),
        (["--plot", "no/such/folder/chart.png"], "there is no folder no/such/folder"),
        (["--plot", "chart.png"], "--plot draws how this package compares with peers, but none is measured"),
    ],
)
@pytest.mark.usefixtures("no_peers")
def test_what_cannot_work_is_one_message(arguments, message):
    assert message in failure("conv", "--cases", "odd", *arguments, code=1)
