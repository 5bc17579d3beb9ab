"""The command line, from its arguments to its output, files and exit codes."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pytensor_convnet import checkpoints, cli, datasets, training
from pytensor_convnet.commands import app
from pytensor_convnet.models import Lenet

QUICK = ["--mode", "FAST_COMPILE"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def failure(*arguments, code=1):
    """The one message of a command that fails as it should."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stderr


def words(result):
    return result.stdout.split()


@pytest.fixture(scope="module")
def digits():
    everything = datasets.load("digits")
    return replace(
        everything,
        train_images=everything.train_images[:400],
        train_labels=everything.train_labels[:400],
        test_images=everything.test_images[:100],
        test_labels=everything.test_labels[:100],
    )


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A folder with a network trained on some digits, its plots, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda *_: digits)
        result = run("train", "--epochs", 4, "--save", folder / "net.npz", "--plots", folder / "a" / "plots", *QUICK)
    assert result.exit_code == 0, result.output
    return folder, result


def test_training_tells_how_it_goes_and_went(trained):
    output = trained[1].stdout
    for told in (
        "lenet on digits: 400 images to train, 100 to test",
        "compiled in",
        "epoch 1/4: loss",
        "epoch 4/4: loss",
        "images/s",
        "training accuracy",
        "validation accuracy",
        "test accuracy",
        "compilation",
        "4 of 4",
        "saved",
    ):
        assert told in output


def test_output_that_is_no_terminal_has_no_control_characters(trained):
    assert all(character.isprintable() or character == "\n" for character in trained[1].stdout)


def test_training_saves_a_network_and_draws(trained):
    folder, _ = trained
    assert checkpoints.load(folder / "net.npz").class_names == tuple("0123456789")
    for name in ("filters.png", "learning_curve.png"):
        with Image.open(folder / "a" / "plots" / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def digit_pictures(digits, folder, invert):
    """One test digit of each of some classes as a PNG file."""
    paths = []
    for label in (0, 4, 6):
        pixels = digits.test_images[np.flatnonzero(digits.test_labels == label)[0], 0]
        path = folder / f"digit_{label}.png"
        Image.fromarray(np.round(255 * (1 - pixels if invert else pixels)).astype("uint8")).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("invert", [False, True])
def test_digits_are_recognised_light_on_dark_and_dark_on_light(trained, digits, tmp_path, invert):
    result = run("predict", trained[0] / "net.npz", *digit_pictures(digits, tmp_path, invert), *QUICK)
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if "%" in line]
    assert len(rows) == 3
    for row, label in zip(rows, "046"):
        assert row.split("│")[2].strip() == label
        assert ("inverted" in row) == invert


def test_inverting_can_be_ordered_and_forbidden(trained, digits, tmp_path):
    pictures = digit_pictures(digits, tmp_path, invert=True)
    assert "inverted" not in run("predict", trained[0] / "net.npz", "--no-invert", *pictures, *QUICK).stdout
    assert run("predict", trained[0] / "net.npz", "--invert", *pictures, *QUICK).stdout.count("inverted") == 3


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("pytensor-convnet 0.1.0 (PyTensor 3.")


def test_help_explains_every_option():
    result = run("train", "--help")
    assert result.exit_code == 0
    assert {"--model", "--data", "--data-folder", "--epochs", "--batch-size", "--learning-rate"} <= set(words(result))
    assert {"--momentum", "--mode", "--seed", "--save", "--plots", "--validation-fraction"} <= set(words(result))
    assert {"--stream", "--checkpoint", "--resume", "--profile"} <= set(words(result))
    assert run("predict", "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model", "resnet"],
        ["train", "--data", "imagenet"],
        ["train", "--epochs", "0"],
        ["train", "--batch-size", "-1"],
        ["train", "--epochs", "many"],
        ["train", "--no-such-option"],
        ["predict"],
        ["predict", "net.npz"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_status_2(arguments):
    assert failure(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "FASTEST"], "mode must be one of"),
        (["--learning-rate", "0"], "learning_rate must be a positive number"),
        (["--momentum", "1"], "momentum must be at least 0 and below 1"),
        (["--batch-size", "2000"], "batch_size must be at most the number of images"),
        (["--validation-fraction", "1"], "validation_fraction must be at least 0 and leave some"),
        (["--save", "no/such/folder/net.npz"], "no such file or folder|there is no folder"),
        (["--checkpoint", "no/such/folder/net.npz"], "there is no folder"),
        (["--resume", "no/such/training.npz"], "training.npz: No such file"),
        (["--profile", "trace.json"], "profile needs mode CUDA"),
        (["--mode", "CUDA"], "mode CUDA needs|device cuda:99 does not exist"),
        (["--data", "mnist", "--data-folder", "no/such/folder"], "the data set mnist was not found"),
    ],
)
def test_what_cannot_work_is_one_message(arguments, message, monkeypatch):
    import re

    monkeypatch.setenv("PYTENSOR_CONVNET_DEVICE", "cuda:99")
    assert re.search(message, failure("train", *arguments))


@pytest.mark.parametrize("model", ["cuda-convnet", "cuda_convnet", "alexnet-small", "alexnet"])
def test_networks_are_known_with_dashes_and_underscores(model):
    told = failure("train", "--model", model, "--data", "mnist", "--data-folder", "no/such/folder")
    assert "the data set mnist was not found" in told


def test_plots_in_a_place_that_is_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in failure("train", "--plots", tmp_path / "file" / "plots")


def test_corrupt_data_is_one_message(tmp_path):
    for part in ("train", "t10k"):
        for content, dimensions in (("images", 3), ("labels", 1)):
            (tmp_path / f"{part}-{content}-idx{dimensions}-ubyte").write_bytes(b"nonsense")
    assert "expected" in failure("train", "--data", "mnist", "--data-folder", tmp_path)


def test_a_loss_that_explodes_is_one_message(digits, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda *_: digits)
    with np.errstate(all="ignore"):
        assert "lower learning_rate" in failure("train", "--learning-rate", "1e30", *QUICK)


def test_an_interrupt_keeps_and_saves_the_best_so_far(digits, tmp_path, monkeypatch):
    from pytensor_convnet import reports

    def interrupt(self, report):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load", lambda *_: digits)
    monkeypatch.setattr(reports.TrainingDisplay, "on_epoch", interrupt)
    result = run("train", "--save", tmp_path / "net.npz", *QUICK)
    assert result.exit_code == 0, result.output
    assert "Interrupted" in result.stdout
    assert type(checkpoints.load(tmp_path / "net.npz").model) is Lenet


def test_training_goes_on_from_a_checkpoint_file(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda *_: digits)
    file, options = tmp_path / "training.npz", ["--validation-fraction", "0", *QUICK]
    assert run("train", "--epochs", 1, "--checkpoint", file, *options).exit_code == 0
    result = run("train", "--epochs", 2, "--resume", file, "--save", tmp_path / "net.npz", *options)
    assert result.exit_code == 0, result.output
    assert "epoch 2/2" in result.stdout
    assert "epoch 1/2" not in result.stdout
    assert "last epoch, kept" in result.stdout
    assert "seed was 0 and is 1" in failure("train", "--resume", file, "--seed", 1, *options)
    (picture,) = digit_pictures(digits, tmp_path, invert=False)[:1]
    assert run("predict", file, picture, *QUICK).exit_code == 0


def test_a_step_that_fails_is_one_message_and_the_best_parameters_are_saved(digits, tmp_path, monkeypatch):
    def fail(network, *_, **__):
        failed = training.StepFailed("epoch 3, minibatch 2 of 8 failed: OutOfMemoryError: CUDA out of memory")
        failed.epoch, failed.parameters = 2, network.get_values() | {"softmax_biases": np.full(10, 7, "float32")}
        raise failed

    monkeypatch.setattr(datasets, "load", lambda *_: digits)
    monkeypatch.setattr(training, "train", fail)
    result = run("train", "--save", tmp_path / "net.npz", *QUICK)
    assert result.exit_code == 1
    assert result.stderr == "error: epoch 3, minibatch 2 of 8 failed: OutOfMemoryError: CUDA out of memory\n"
    assert "the parameters of epoch 2 saved" in result.stdout
    assert (checkpoints.load(tmp_path / "net.npz").model.get_values()["softmax_biases"] == 7).all()


def test_a_missing_network_is_one_message(tmp_path):
    assert "net.npz: No such file" in failure("predict", tmp_path / "net.npz", tmp_path / "picture.png")


def test_a_corrupt_network_is_one_message(tmp_path):
    (tmp_path / "net.npz").write_bytes(b"PK\x03\x04 nonsense")
    assert "expected a trained network" in failure("predict", tmp_path / "net.npz", tmp_path / "picture.png")


def test_a_bad_picture_is_one_message(trained, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"nonsense")
    assert "picture.png: not a picture" in failure("predict", trained[0] / "net.npz", tmp_path / "picture.png")


def test_a_missing_picture_is_one_message(trained, tmp_path):
    assert "picture.png: no such file" in failure("predict", trained[0] / "net.npz", tmp_path / "picture.png")


def test_brackets_in_file_names_are_not_markup(trained, digits, tmp_path):
    (path,) = digit_pictures(digits, tmp_path, invert=False)[:1]
    renamed = path.rename(tmp_path / "[bold]0[red].png")
    result = run("predict", trained[0] / "net.npz", renamed, *QUICK)
    assert result.exit_code == 0, result.output
    assert "[bold]0[red].png" in "".join(
        line.split("│")[1].strip() for line in result.stdout.splitlines() if "│" in line
    )


def test_it_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "pytensor_convnet", "--version"], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith("pytensor-convnet")


@pytest.mark.parametrize(("module", "package"), [("typer", "typer"), ("rich", "rich"), ("PIL", "pillow")])
def test_a_missing_package_is_told_with_its_cure(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"needs {package}, .*pip install 'pytensor-convnet\[train\]'"):
        cli.main()
