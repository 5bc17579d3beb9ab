"""How the machine of figures of a GPU is described, as far as that needs no GPU."""

import subprocess

import pytest

pytest.importorskip("torch", reason="the GPU's benchmark times torch's tensors: pip install torch triton")

import torch

from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.bench.cuda.timing import GpuMachine, commit_of


def git(folder, *arguments):
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def package(tmp_path):
    """The folder of a package in a checkout, everything committed."""
    folder = tmp_path / "src" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return folder


def test_the_commit_of_a_checkout_is_told(package):
    assert commit_of(package) == git(package, "rev-parse", "--short", "HEAD").strip()


@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_files_that_are_not_as_committed_are_marked(package, name):
    clean = commit_of(package)
    (package / name).write_text("changed = True\n")
    assert commit_of(package) == f"{clean}+"


def test_figures_that_a_run_writes_beside_the_package_do_not_count(package):
    clean = commit_of(package)
    (package.parent.parent / "figures.json").write_text("{}")
    assert commit_of(package) == clean


def test_a_package_within_the_checkout_of_another_project_has_no_commit(package):
    installed = package.parent / "site-packages" / "other"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert commit_of(installed) is None


def test_without_git_there_is_no_commit(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_of(package) is None


def test_a_machine_is_described_with_its_driver_and_versions(monkeypatch):
    told = {"nvidia-smi": "580.65\n580.65", "git": ""}
    monkeypatch.setattr(timing, "_told_by", lambda program, *_, folder=None: told[program])
    monkeypatch.setattr(timing, "_matrix_rate", lambda dtype: 4e14)
    monkeypatch.setattr(timing, "_copy_rate", lambda: 3e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    machine = GpuMachine.measured({"torch": "2.11"})
    assert (machine.processor, machine.driver, machine.cuda) == ("A GPU", "580.65", "13.0")
    assert machine.python.count(".") == 2
