import gzip
import re
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from made_up_files import damaged, idx, make_pictures, read_bytes, write_mnist

from pytensor_convnet.datasets import idx as reader
from pytensor_convnet.datasets.base import CorruptData, MissingData

LABELS = idx(np.array([3, 1, 4]))
IMAGES = idx(make_pictures(2))


def refused(sentence: str):
    return pytest.raises(CorruptData, match=re.escape(sentence))


# ----------------------------------------------------------------------------------------- whole data sets


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dot", [False, True])
def test_the_four_files_make_a_data_set(tmp_path, ending, dot):
    write_mnist(tmp_path, ending=ending, dot=dot)
    dataset = reader.load("mnist", tmp_path)
    np.testing.assert_array_equal(dataset.train_images[:, 0], make_pictures(12) / np.float32(255))
    np.testing.assert_array_equal(dataset.train_labels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2])
    assert dataset.test_images.shape == (5, 1, 28, 28)
    assert dataset.test_images.dtype == np.float32
    assert dataset.test_labels.dtype == np.int32


@pytest.mark.parametrize(
    ("name", "subfolder"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "mnist/raw"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "."),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "fashion-mnist/raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_files_are_found_in_the_customary_subfolders(tmp_path, name, subfolder):
    write_mnist(tmp_path / subfolder)
    assert reader.load(name, tmp_path).name == name


def test_a_named_subfolder_goes_before_the_folder_itself(tmp_path):
    write_mnist(tmp_path, train=20)
    write_mnist(tmp_path / "fashion-mnist", train=7)
    assert len(reader.load("fashion-mnist", tmp_path).train_images) == 7


def test_the_variable_names_the_folder(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist")
    monkeypatch.setenv("PYTENSOR_CONVNET_DATA", str(tmp_path))
    assert len(reader.load("mnist").train_images) == 12


def test_the_cache_is_searched_after_the_variable(tmp_path, monkeypatch):
    write_mnist(tmp_path / ".cache/pytensor-convnet/mnist")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTENSOR_CONVNET_DATA", str(tmp_path / "nothing"))
    assert len(reader.load("mnist").train_images) == 12


def test_classes_have_the_names_of_their_data_set(tmp_path):
    write_mnist(tmp_path)
    assert reader.load("mnist", tmp_path).class_names[9] == "9"
    assert reader.load("fashion-mnist", tmp_path).class_names[9] == "Ankle boot"


def test_the_other_data_set_is_not_taken_for_the_one_asked_for(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(idx(np.array([*reader.FIRST_LABELS["mnist"], 3, 5])))
    with refused(f"{path}: expected the labels of fashion-mnist, found those of mnist; keep the two"):
        reader.load("fashion-mnist", tmp_path)
    assert reader.load("mnist", tmp_path).name == "mnist"


@pytest.mark.parametrize(
    ("name", "home"),
    [("mnist", "yann.lecun.com/exdb/mnist"), ("fashion-mnist", "Debian package dataset-fashion-mnist")],
)
def test_missing_files_are_named_with_their_home(tmp_path, name, home):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingData) as caught:
        reader.load(name, tmp_path)
    message = str(caught.value)
    assert "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte" in message
    assert f"{tmp_path} (lacks t10k-labels-idx1-ubyte)" in message
    assert f"{tmp_path / name / 'raw'} (no such folder)" in message
    assert home in message
    assert "--data-folder DIR" in message
    assert "PYTENSOR_CONVNET_DATA" in message


def test_fewer_labels_than_images_are_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(LABELS)
    with refused(f"{path}: expected 12 labels, one for each image of train-images-idx3-ubyte, found 3"):
        reader.load("mnist", tmp_path)


def test_a_label_past_nine_is_refused(tmp_path):
    write_mnist(tmp_path, test=3)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(np.array([1, 10, 2])))
    with refused(f"{path}: expected labels from 0 to 9, found 10 at position 1"):
        reader.load("mnist", tmp_path)


def test_images_of_another_size_are_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(make_pictures(12, (32, 30))))
    with refused(f"{path}: expected images of 28 x 28 pixels, found 32 x 30"):
        reader.load("mnist", tmp_path)


def test_no_images_are_refused(tmp_path):
    write_mnist(tmp_path, test=0)
    with refused(f"{tmp_path / 't10k-images-idx3-ubyte'}: expected at least one image, found none"):
        reader.load("mnist", tmp_path)


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


if DEBIAN.is_dir():  # collected where the package is installed

    def test_the_published_fashion_mnist_loads(monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("PYTENSOR_CONVNET_DATA", raising=False)
        dataset = reader.load("fashion-mnist")
        assert dataset.train_images.shape == (60000, 1, 28, 28)
        assert dataset.test_images.shape == (10000, 1, 28, 28)
        assert np.bincount(dataset.train_labels).tolist() == [6000] * 10
        assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
        assert dataset.train_labels[:10].tolist() == reader.FIRST_LABELS["fashion-mnist"]


# -------------------------------------------------------------------------------------------- single files


def test_a_file_is_read_back(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(LABELS)
    labels = reader.read_idx(path, 1)
    assert labels.tolist() == [3, 1, 4]
    assert labels.dtype == np.uint8


def test_the_content_tells_whether_it_is_gzipped(tmp_path):
    unpacked, packed = tmp_path / "unpacked.gz", tmp_path / "packed"
    unpacked.write_bytes(LABELS)
    packed.write_bytes(gzip.compress(LABELS))
    assert reader.read_idx(unpacked, 1).tolist() == reader.read_idx(packed, 1).tolist() == [3, 1, 4]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["unpacked", "gzipped"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "which begins 00 00 08 01, found an empty file"),
        (
            IMAGES,
            "expected an idx file of bytes in 1 dimensions, which begins 00 00 08 01, found 00 00 08 03",
        ),
        (b"\x00\x00\x0d" + LABELS[3:], "which begins 00 00 08 01, found 00 00 0d 01"),
        (LABELS[:6], "expected a header of 8 bytes, found 6"),
        (LABELS[:-1], "expected 3 bytes after the header, which declares 3, found 2"),
        (LABELS + b"\x00", "expected 3 bytes after the header, which declares 3, found more"),
        (
            LABELS[:4] + b"\xff\xff\xff\xff",
            "expected at most 104857600 bytes of data, found a header that declares 4294967295",
        ),
    ],
)
def test_a_file_unlike_its_header_is_refused(tmp_path, pack, content, sentence):
    path = tmp_path / "labels"
    path.write_bytes(pack(content))
    with pytest.raises(CorruptData) as caught:
        reader.read_idx(path, 1)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert sentence in str(caught.value)


def test_lengths_that_overflow_are_refused_even_beside_a_zero(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1))
    with refused("found a header that declares 0 x 4294967295 x 4294967295"):
        reader.read_idx(path, 3)


def test_a_truncated_gzip_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(IMAGES)[:-20])
    with refused(f"{path}: expected a whole gzip file, found it damaged: Compressed file ended before"):
        reader.read_idx(path, 3)


def test_a_wrong_checksum_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    packed = bytearray(gzip.compress(IMAGES))
    packed[-8] ^= 1
    path.write_bytes(packed)
    with refused(f"{path}: expected a whole gzip file, found it damaged: CRC check failed"):
        reader.read_idx(path, 3)


def test_a_zip_bomb_is_not_unzipped(tmp_path):
    path = tmp_path / "labels.gz"
    with gzip.open(path, "wb") as file:
        file.write(LABELS)
        for _ in range(200):
            file.write(bytes(2**20))
    asked = []
    original = gzip.GzipFile.read

    def read(self, size=-1):
        asked.append(size)
        return original(self, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip.GzipFile, "read", read)
        with refused("expected 3 bytes after the header, which declares 3, found more"):
            reader.read_idx(path, 1)
    assert asked == [8, 4]


@settings(max_examples=200, deadline=None)
@given(damaged(IMAGES, frail=20))
def test_a_damaged_file_loads_or_is_corrupt(content):
    with suppress(CorruptData):
        assert read_bytes(lambda path: reader.read_idx(path, 3), content).ndim == 3


@settings(max_examples=200, deadline=None)
@given(damaged(gzip.compress(LABELS, mtime=0)))
def test_a_damaged_gzip_loads_or_is_corrupt(content):
    with suppress(CorruptData):
        assert read_bytes(lambda path: reader.read_idx(path, 1), content).ndim == 1
