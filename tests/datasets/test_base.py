import re
from pathlib import Path

import numpy as np
import pytest

from pytensor_convnet.datasets import base
from pytensor_convnet.datasets.base import CorruptData, Dataset, MissingData


def arrays(count=4, shape=(1, 28, 28)):
    return np.zeros((count, *shape), np.float32), np.zeros(count, np.int32)


def make(train_images=None, train_labels=None, test_images=None, test_labels=None):
    images, labels = arrays()
    return Dataset(
        "pairs",
        images if train_images is None else train_images,
        labels if train_labels is None else train_labels,
        images if test_images is None else test_images,
        labels if test_labels is None else test_labels,
        ("cat", "dog"),
    )


def test_a_valid_data_set_knows_its_shape_and_classes():
    dataset = make()
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.number_of_classes == 2


def test_a_data_set_prints_without_its_pixels():
    assert repr(make()) == "Dataset(name='pairs', class_names=('cat', 'dog'))"


def test_a_data_set_is_frozen():
    with pytest.raises(AttributeError):
        make().name = "other"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"train_images": np.zeros((4, 28, 28), np.float32)},
            "pairs: train_images must be (batch, channels, rows, columns), got shape (4, 28, 28)",
        ),
        (
            {"test_labels": np.zeros((4, 1), np.int32)},
            "pairs: test_labels must be (batch,), got shape (4, 1)",
        ),
        (
            {"test_images": np.zeros((0, 1, 28, 28), np.float32), "test_labels": np.zeros(0, np.int32)},
            "pairs: test_images must not be empty, got shape (0, 1, 28, 28)",
        ),
        (
            {"train_labels": np.zeros(3, np.int32)},
            "pairs: train_images and train_labels must have one length, got 4 and 3",
        ),
        ({"train_images": np.zeros((4, 1, 28, 28))}, "pairs: train_images must be float32, got float64"),
        ({"train_labels": np.zeros(4, np.int64)}, "pairs: train_labels must be int32, got int64"),
        (
            {"train_images": np.full((4, 1, 28, 28), 255, np.float32)},
            "pairs: train_images must lie within [0, 1], got 255 to 255",
        ),
        (
            {"train_images": np.full((4, 1, 28, 28), np.nan, np.float32)},
            "pairs: train_images must lie within [0, 1], got nan to nan",
        ),
        (
            {"test_labels": np.array([0, 1, 2, 0], np.int32)},
            "pairs: test_labels must lie within 0 to 1 for 2 classes, got 0 to 2",
        ),
        (
            {"test_labels": np.array([0, -1, 1, 0], np.int32)},
            "pairs: test_labels must lie within 0 to 1 for 2 classes, got -1 to 1",
        ),
        (
            {"test_images": np.zeros((4, 3, 28, 28), np.float32)},
            "pairs: train_images and test_images must agree in (channels, rows, columns), "
            "got (1, 28, 28) and (3, 28, 28)",
        ),
    ],
)
def test_a_wrong_array_is_refused_with_what_is_wrong(wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make(**wrong)


def test_scaling_takes_255_to_exactly_one():
    scaled = base.scale(np.arange(256, dtype=np.uint8))
    assert scaled.dtype == np.float32
    assert scaled[0] == 0
    assert scaled[255] == 1


def test_a_file_past_the_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LARGEST_FILE", 10)
    path = tmp_path / "big"
    path.write_bytes(bytes(11))
    with pytest.raises(CorruptData, match=re.escape(f"{path}: expected at most 10 bytes, found more")):
        base.read_file(path)


def test_a_given_folder_is_the_only_one_searched(monkeypatch):
    monkeypatch.setenv(base.FOLDER_VARIABLE, "elsewhere")
    assert base.data_folders("here") == [Path("here")]


def test_a_given_folder_may_start_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert base.data_folders("~/data") == [Path("/home/someone/data")]


def test_without_a_folder_the_variable_goes_before_the_customary_ones(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv(base.FOLDER_VARIABLE, "elsewhere")
    assert base.data_folders(None) == [
        Path("elsewhere"),
        Path("/home/someone/.cache/pytensor-convnet"),
        Path("/usr/share/datasets"),
    ]


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv(base.FOLDER_VARIABLE, "")
    assert Path() not in base.data_folders(None)


def test_files_come_all_from_one_place(tmp_path):
    half, whole = tmp_path / "half", tmp_path / "whole"
    for folder, names in ((half, ["a"]), (whole, ["a", "b"])):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    found = base.find_files("pairs", [{"a": ["a"], "b": ["b"]}], [half, whole], "nowhere")
    assert found == {"a": whole / "a", "b": whole / "b"}


def test_missing_files_are_told_place_by_place(tmp_path):
    half, empty = tmp_path / "half", tmp_path / "empty"
    half.mkdir()
    empty.mkdir()
    (half / "a").touch()
    layouts = [{"a": ["a"], "b": ["b"]}, {"c": ["c"], "d": ["d"], "e": ["e"]}]
    with pytest.raises(MissingData) as caught:
        base.find_files("pairs", layouts, [half, empty, tmp_path / "no"], "your own camera")
    assert str(caught.value) == (
        "the data set pairs was not found.\n"
        "Wanted, together in one folder: a, b\n"
        "  or: c, d, e\n"
        "Looked in:\n"
        f"  {half} (lacks b)\n"
        f"  {empty} (none of them)\n"
        f"  {tmp_path / 'no'} (no such folder)\n"
        "Published at: your own camera\n"
        "Name their folder with --data-folder DIR or in the environment variable PYTENSOR_CONVNET_DATA."
    )


def test_missing_data_is_a_file_not_found():
    assert issubclass(MissingData, FileNotFoundError)


def test_corrupt_data_is_a_value_error():
    assert issubclass(CorruptData, ValueError)
