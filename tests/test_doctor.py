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


@pytest.fixture(scope="module")
def output():
    app = typer.Typer()
    app.command()(doctor.doctor)
    result = CliRunner().invoke(app, [])
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


def test_methods_of_the_gpu_are_described_in_a_word_or_two():
    torch = pytest.importorskip("torch", reason="methods of the GPU work on torch's tensors: pip install torch triton")
    pytest.importorskip("triton", reason="methods of the GPU are written in Triton: pip install triton")
    from pytensor_convnet.kernels.cuda.gathering import Geometry
    from pytensor_convnet.kernels.cuda.methods import Cudnn, SlidingShare, Task, Unrolled, WindowShare
    from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks
    from pytensor_convnet.kernels.cuda.tuning import fixed_choice
    from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks

    assert doctor.described(Cudnn("bc01")) == "cuDNN bc01"
    assert doctor.described(Cudnn("bc01", as_forward=True)) == "cuDNN bc01 as forward"
    assert doctor.described(SlidingShare(True, "tf32", SlidingBlocks(16, 32, 4, 64, 132, 4, 3))) == "sliding sum tf32"
    assert doctor.described(WindowShare("tf32", WindowGradBlocks(True, 3, 1, 3, 96, 1))) == "windows tf32"
    assert doctor.described(Unrolled(WindowShare("tf32", WindowGradBlocks(True, 1, 1, 3, 64, 1)))) == (
        "windows tf32 of columns"
    )
    geometry = Geometry((16, 3, 9, 9), (4, 3, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)
    for name, kind in (("correlate2d", "gather"), ("correlate2d_filter_grad", "split sum")):
        task = Task(name, geometry, torch.float32, "ieee", ("bc01", "bc01"), torch.device("cpu"))
        assert doctor.described(fixed_choice(task)) == f"{kind} ieee"


def test_it_is_a_command():
    code = "import sys; sys.argv = ['pytensor-convnet', '--help']; from pytensor_convnet.cli import main; main()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "doctor" in shown
