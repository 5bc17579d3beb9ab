"""The example in c01b learns, and draws what it learnt."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytensor.tensor as pt

SCRIPT = Path(__file__).parent.parent.parent / "examples" / "cifar10_filter_acts.py"


def test_it_learns_digits_and_draws(tmp_path, capsys):
    example = runpy.run_path(str(SCRIPT))
    arguments = ["--data", "digits", "--images", "300", "--epochs", "6", "--batch-size", "30", "--mode", "FAST_COMPILE"]
    example["main"]([*arguments, "--plots", str(tmp_path / "plots")])
    printed = capsys.readouterr().out
    assert "epoch 6/6" in printed
    accuracy = float(re.search(r"test accuracy\W+([\d.]+)%", printed)[1])
    assert accuracy > 50  # one in ten is guessing
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"filters.png", "learning_curve.png"}


def test_it_reads_cifar10_from_its_own_files(tmp_path, capsys):
    """Six batches of the binary version: a byte of label, then 3072 of image, channel by channel."""
    rng = np.random.default_rng(0)
    for batch in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = np.arange(12, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (12, 3, 32, 32), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label % 3, 3 * label : 3 * label + 5] += 190
        records = np.hstack([labels[:, None], images.reshape(12, 3072)])
        (tmp_path / f"{batch}.bin").write_bytes(records.tobytes())
    arguments = ["--data", "cifar10", "--data-folder", str(tmp_path), "--epochs", "2", "--batch-size", "12"]
    runpy.run_path(str(SCRIPT))["main"]([*arguments, "--mode", "FAST_COMPILE", "--plots", str(tmp_path / "plots")])
    assert "epoch 2/2" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"filters.png", "learning_curve.png"}


def test_it_has_the_shapes_of_cuda_convnets_network():
    network = runpy.run_path(str(SCRIPT))["FilterActsNet"]
    shapes = network.parameter_shapes((3, 32, 32), 10)
    assert shapes["filters1"] == (3, 5, 5, 32)
    assert shapes["softmax_weights"] == (64 * 4 * 4, 10)
    images = pt.tensor("images", shape=(128, 3, 32, 32), dtype="float32")
    logits = network(np.random.default_rng(0), (3, 32, 32), 10).logits(images)
    assert logits.type.shape[1] == 10
