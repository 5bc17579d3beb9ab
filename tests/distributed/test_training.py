"""Two processes learn what one learns from the joint minibatches, and a lost one leaves a whole checkpoint."""

import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from pytensor_convnet import checkpoints, training_states
from tests.distributed.launching import DEVICE, PROGRAMS, errors, launch

TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}[DEVICE]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """From the number of images to what one process reports."""

    @cache
    def learn(images):
        file = tmp_path_factory.mktemp("one") / "one.npz"
        subprocess.run([sys.executable, PROGRAMS / "learning.py", file, images, "FAST_COMPILE", "whole"], check=True)
        return np.load(file)

    return learn


ONE_LEFT, ALMOST_ALL_LEFT = "268", "266"
"""So many images, less a tenth held out, leave 1 or 47 for the last minibatch of 48: shares of 0, 1 or 23, 24."""

RUNS = [
    ("FAST_COMPILE", "whole", ONE_LEFT),
    ("FAST_COMPILE", "stream", ALMOST_ALL_LEFT),
    ("NUMBA", "whole", ALMOST_ALL_LEFT),
    ("CUDA", "whole", ONE_LEFT),
]


@pytest.mark.parametrize(("mode", "stream", "images"), RUNS)
def test_two_processes_learn_what_one_learns(one, tmp_path, mode, stream, images):
    file = tmp_path / "two.npz"
    result = launch(PROGRAMS / "learning.py", file, images, mode, stream)
    assert result.returncode == 0, result.stderr
    one, two = one(images), np.load(file)
    assert two["count"] == 2
    assert len(two["losses"]) == len(one["losses"])
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(two["score_losses"], one["score_losses"], rtol=TOLERANCE)
    np.testing.assert_array_equal(two["accuracies"], one["accuracies"])
    learnt = [name for name in one.files if name.startswith(("parameter", "velocity"))]
    assert len(learnt) == 16
    for name in learnt:  # a maximum may have moved to its neighbour by rounding, which a gradient shows
        most = np.abs(one[name]).max()
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=100 * TOLERANCE * most)


def command(fate, folder, *arguments, mode="FAST_COMPILE"):
    files = ["--save", folder / "net.npz", "--checkpoint", folder / "training.npz"]
    quick = ["--mode", mode, "--epochs", 4, "--batch-size", 200]
    return launch(PROGRAMS / "commanding.py", fate, "train", *files, *quick, *arguments)


def test_one_process_speaks_and_writes_for_all(tmp_path):
    result = command("nothing", tmp_path, "--plots", tmp_path / "plots")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 4/4: loss") == 1
    assert len(re.findall(r"saved .*net\.npz", result.stdout)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.npz", "plots", "training.npz"]


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "CUDA"])
def test_a_killed_process_is_told_and_leaves_a_whole_checkpoint(tmp_path, mode):
    result = command("kill", tmp_path, mode=mode)
    assert result.returncode == 1
    [message] = errors(result)
    # Whatever process 0 did just then.
    assert re.match(r"error: .+ failed: LostProcess: process 0 of 2: another process has stopped", message)
    assert "epoch 3/4" not in result.stdout
    assert len(training_states.load(tmp_path / "training.npz").epochs) == 2
    assert checkpoints.load(tmp_path / "net.npz").class_names == tuple("0123456789")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.npz", "training.npz"]


def test_an_interrupt_of_one_process_stops_all(tmp_path):
    result = command("interrupt", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Interrupted" in result.stdout
    assert "2 of 4" in result.stdout
    assert checkpoints.load(tmp_path / "net.npz").class_names == tuple("0123456789")


def test_a_minibatch_that_cannot_be_shared_is_told_once(tmp_path):
    result = command("nothing", tmp_path, "--batch-size", 51)
    assert result.returncode == 1
    assert errors(result) == ["error: batch_size must be a multiple of the number of processes, got 51 for 2 processes"]
