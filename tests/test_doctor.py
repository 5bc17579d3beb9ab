"""The command ``doctor`` says what a machine has, what it lacks and how to get that."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from pytensor_convnet import doctor
from pytensor_convnet.bench.cases import CONV


def packages_without(monkeypatch, *missing):
    find_spec = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in missing else find_spec(name))


def doctor_says(*options):
    app = typer.Typer()
    app.command()(doctor.doctor)
    return CliRunner().invoke(app, options, env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def output():
    result = doctor_says()
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_names_versions_devices_and_caches(output):
    for told in ("pytensor-convnet", "Python 3.", "numba", "CPU: ", "GPU", "Caches:", "PyTensor: ", "CPU kernels: "):
        assert told in output


def test_it_tells_the_kernel_of_every_case(output):
    lines = [line.split() for line in output.splitlines()]
    for case in CONV:
        [row] = [line for line in lines if line[:1] == [case]][:1]
        assert row[-1] == "direct" or row[-1][-1] == ")"


def test_a_form_of_minimal_filtering_has_its_name():
    assert doctor.cpu_form(CONV["vgg3"].for_cpu(), "forward") in ("F(4, 3)", "F(5, 3)", "F(6, 3)")


def test_what_is_not_installed_is_named(monkeypatch):
    packages_without(monkeypatch, "torch", "triton")
    assert doctor.gpu_problem() == "torch and triton not installed: pip install 'pytensor-convnet[cuda]'"
    assert not [name for name, _, _ in doctor.caches() if name in ("Triton", "choices for GPUs")]
    *_, gpu = doctor.device_lines()
    assert gpu.startswith("GPU: none that can be used. torch and triton not installed")


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("missing",))
    assert [line.split() for line in doctor.version_lines()][1] == ["missing", "not", "installed"]


def test_a_torch_without_cuda_is_told(monkeypatch):
    torch = pytest.importorskip("torch", reason="what torch lacks is asked of torch: pip install torch")
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in doctor.gpu_problem()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no NVIDIA GPU" in doctor.gpu_problem()


def test_a_gpu_has_a_table_for_each_format_asked_for_and_one_of_pools(monkeypatch):
    torch = pytest.importorskip("torch", reason="kernels of the GPU take torch's tensors: pip install torch triton")
    pytest.importorskip("triton", reason="kernels of the GPU are written in Triton: pip install triton")
    from pytensor_convnet.bench.cuda import choices

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(choices, "convolutions_table", lambda format, device: (format, str(device)))
    monkeypatch.setattr(choices, "pools_table", lambda: "pools")
    assert list(doctor.gpu_tables(["batch_last", "bc01"])) == [("batch_last", "cuda:0"), ("bc01", "cuda:0"), "pools"]


@pytest.mark.parametrize(
    ("options", "formats"), [([], "batch_last"), (["--formats", "bc01,channels_last"], "bc01 and channels_last")]
)
def test_tables_of_a_gpu_are_shown_where_there_is_one(monkeypatch, options, formats):
    for name in ("version_lines", "device_lines", "cache_lines"):
        monkeypatch.setattr(doctor, name, lambda: ())
    monkeypatch.setattr(doctor, "cpu_table", lambda: "of the CPU")
    monkeypatch.setattr(doctor, "gpu_problem", lambda: None)
    monkeypatch.setattr(doctor, "gpu_tables", lambda formats: [f"of the GPU in {' and '.join(formats)}"])
    shown = doctor_says(*options).stdout.splitlines()
    assert shown == ["of the CPU", f"of the GPU in {formats}"]


def test_a_format_that_there_is_not_is_told():
    result = doctor_says("--formats", "c01b")
    assert result.exit_code == 2
    assert "'c01b' is not one of batch_last, channels_last, bc01" in " ".join(result.stderr.replace("│", " ").split())


def test_it_is_a_command():
    code = "import sys; sys.argv = ['pytensor-convnet', '--help']; from pytensor_convnet.cli import main; main()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "doctor" in shown
