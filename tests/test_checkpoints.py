"""Trained networks as files: they come back as they were, and anything else is refused with a reason."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from pytensor_convnet import checkpoints
from pytensor_convnet.checkpoints import CorruptCheckpoint
from pytensor_convnet.models import Lenet, Normalisation

NAMES = ("cat", "Hund", "兎")


@pytest.fixture(scope="module")
def lenet():
    normalisation = Normalisation(np.array([0.25], "float32"), np.array([0.5], "float32"))
    return Lenet(np.random.default_rng(3), (1, 16, 16), 3, normalisation)


@pytest.fixture
def saved(lenet, tmp_path):
    path = tmp_path / "pets.npz"
    checkpoints.save(path, lenet, NAMES)
    return path


def altered(path, **changes):
    """The file with arrays replaced; None takes one away."""
    with np.load(path) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_a_network_comes_back_as_it_was(saved, lenet):
    loaded = checkpoints.load(saved)
    assert loaded.class_names == NAMES
    assert type(loaded.model) is Lenet
    assert (loaded.model.image_shape, loaded.model.number_of_classes) == ((1, 16, 16), 3)
    np.testing.assert_array_equal(loaded.model.normalisation.mean, lenet.normalisation.mean)
    np.testing.assert_array_equal(loaded.model.normalisation.deviation, lenet.normalisation.deviation)
    for name, value in lenet.get_values().items():
        np.testing.assert_array_equal(loaded.model.get_values()[name], value)


def test_numpy_reads_the_file_without_pickle(saved):
    with np.load(saved, allow_pickle=False) as archive:
        assert archive["format"] == checkpoints.FORMAT
        assert archive["parameters/conv1_filters"].shape == (20, 1, 5, 5)


def test_saving_replaces_a_file_and_leaves_nothing_else(saved, lenet):
    saved.write_bytes(b"old")
    checkpoints.save(saved, lenet, NAMES)
    assert os.listdir(saved.parent) == ["pets.npz"]
    assert checkpoints.load(saved).class_names == NAMES


def test_a_file_that_cannot_be_finished_leaves_the_old_one(saved, lenet, monkeypatch):
    old = saved.read_bytes()

    def fill_the_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(saved, lenet, NAMES)
    assert saved.read_bytes() == old
    assert os.listdir(saved.parent) == ["pets.npz"]


def test_class_names_must_be_as_many_as_classes(lenet, tmp_path):
    with pytest.raises(ValueError, match="class_names must be 3 names, got 2"):
        checkpoints.save(tmp_path / "pets.npz", lenet, ["cat", "dog"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "found another .npz file"),
        ({"format": np.array("other")}, "found another .npz file"),
        ({"format_version": np.array(2)}, "expected format version 1, found 2"),
        ({"format_version": np.array([1])}, r"format_version to be int64 of shape \(\), found int64 of shape \(1,\)"),
        (
            {"model": np.array("resnet")},
            "expected a network among lenet, cuda_convnet, alexnet, alexnet_small, found 'resnet'",
        ),
        ({"model": None}, "expected an array model, found none"),
        ({"image_shape": np.array([1, 16])}, r"image_shape to be int64 of shape \(3,\)"),
        ({"image_shape": np.array([1, 8, 8])}, "image_shape must be .* at least 16 rows"),
        ({"image_shape": np.array([1, 10**9, 10**9])}, "hidden_weights to be float32"),
        ({"class_names": np.array(["only"])}, "two or more printable names"),
        ({"class_names": np.array(["a", "b", "\x1b[31m"])}, "printable names"),
        ({"class_names": np.array(["a", "b"])}, r"softmax_weights to be float32 of shape \(500, 2\)"),
        ({"class_names": np.frombuffer(b"\xff" * 12, "U1")}, "found it damaged"),
        ({"mean": np.zeros(2, "float32")}, r"mean to be float32 of shape \(1,\), found float32 of shape \(2,\)"),
        ({"deviation": np.zeros(1, "float32")}, "positive deviations"),
        ({"deviation": np.array([np.inf], "float32")}, "deviation to be finite"),
        ({"parameters/hidden_biases": None}, "an array parameters/hidden_biases, found none"),
        ({"parameters/hidden_biases": np.zeros(500)}, "hidden_biases to be float32 of shape .*, found float64"),
        ({"parameters/hidden_biases": np.zeros((500, 1), "float32")}, r"found float32 of shape \(500, 1\)"),
        ({"parameters/hidden_biases": np.full(500, np.nan, "float32")}, "hidden_biases to be finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_name_and_reason(saved, changes, message):
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        checkpoints.load(altered(saved, **changes))
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a network", pickle.dumps({"a": 1}), b"\x93NUMPY\x01\x00"])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=r"foreign.npz: expected a trained network.*damaged"):
        checkpoints.load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptCheckpoint, match=r"pets.npz"):
        checkpoints.load(saved)


def test_any_flipped_byte_is_noticed_or_harmless(saved, lenet):
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    ends = np.concatenate([np.arange(0, 600, 7), len(content) - 1 - np.arange(0, 1200, 11)])
    for position in np.concatenate([ends, rng.integers(0, len(content), 100)]):
        damaged = bytearray(content)
        damaged[position] ^= 0x41
        saved.write_bytes(damaged)
        try:
            values = checkpoints.load(saved).model.get_values()
        except CorruptCheckpoint:
            continue
        assert all(np.array_equal(values[name], value) for name, value in lenet.get_values().items())


def test_a_pickle_inside_is_not_run(saved, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    with pytest.raises(CorruptCheckpoint, match="hidden_biases"):
        checkpoints.load(altered(saved, **{"parameters/hidden_biases": np.array([Trap()] * 500, object)}))
    assert not (tmp_path / "sprung").exists()


def test_a_compressed_file_is_refused_before_it_unpacks(saved):
    with np.load(saved) as archive:
        arrays = dict(archive)
    np.savez_compressed(saved, **arrays)
    with pytest.raises(CorruptCheckpoint, match="compressed"):
        checkpoints.load(saved)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(saved):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (500,)})
    with zipfile.ZipFile(saved) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members["parameters/hidden_biases.npy"] = header.getvalue() + bytes(8)
    with zipfile.ZipFile(saved, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(CorruptCheckpoint, match="expected 2000 bytes of parameters/hidden_biases, found 8"):
        checkpoints.load(saved)
