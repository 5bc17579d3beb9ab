import os
import pickle
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from made_up_files import damaged, make_pictures, python2_batch, python2_string, read_bytes

from pytensor_convnet.datasets import cifar10
from pytensor_convnet.datasets.base import CorruptData, MissingData

BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
NAMES = [f"class{number}" for number in range(10)]


def refused(sentence):
    return pytest.raises(CorruptData, match=re.escape(sentence))


def contents(count=2):
    """Data and labels of each batch."""
    return {
        batch: (make_pictures(count, (3072,), seed), [seed, 9 - seed][:count]) for seed, batch in enumerate(BATCHES)
    }


def binary_batch(data, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(data, labels))


def python3_batch(data, labels):
    return pickle.dumps({b"data": data, b"labels": labels, b"batch_label": b"made up"}, protocol=2)


VERSIONS = {
    "binary": (binary_batch, ".bin"),
    "python 2": (python2_batch, ""),
    "python 3": (python3_batch, ""),
}


@pytest.fixture(params=VERSIONS)
def version(request):
    return VERSIONS[request.param]


def write_cifar10(folder, version):
    pack, ending = version
    folder.mkdir(parents=True, exist_ok=True)
    for batch, (data, labels) in contents().items():
        (folder / (batch + ending)).write_bytes(pack(data, labels))


# ----------------------------------------------------------------------------------------- whole data sets


def test_the_six_batches_make_a_data_set(tmp_path, version):
    write_cifar10(tmp_path, version)
    dataset = cifar10.load(tmp_path)
    expected = np.concatenate([data for data, _ in contents().values()]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(dataset.train_images, expected[:10] / np.float32(255))
    np.testing.assert_array_equal(dataset.test_images, expected[10:] / np.float32(255))
    assert dataset.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert dataset.test_labels.tolist() == [5, 4]
    assert dataset.train_labels.dtype == np.int32
    assert dataset.class_names[6] == "frog"


@pytest.mark.parametrize("subfolder", [".", "cifar10", "archive", "cifar10/archive"])
def test_batches_are_found_in_the_customary_subfolders(tmp_path, version, subfolder):
    archive = "cifar-10-batches-bin" if version[1] else "cifar-10-batches-py"
    write_cifar10(tmp_path / subfolder.replace("archive", archive), version)
    assert len(cifar10.load(tmp_path).train_images) == 10


def test_the_binary_version_goes_first(tmp_path):
    write_cifar10(tmp_path, VERSIONS["binary"])
    write_cifar10(tmp_path, VERSIONS["python 2"])
    (tmp_path / "data_batch_1").write_bytes(b"damaged")
    assert len(cifar10.load(tmp_path).train_images) == 10


def test_the_variable_names_the_folder(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "cifar-10-batches-py", VERSIONS["python 2"])
    monkeypatch.setenv("PYTENSOR_CONVNET_DATA", str(tmp_path))
    assert len(cifar10.load().train_images) == 10


def test_missing_files_are_named_with_their_home(tmp_path):
    write_cifar10(tmp_path, VERSIONS["binary"])
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(MissingData) as caught:
        cifar10.load(tmp_path)
    message = str(caught.value)
    assert "data_batch_1.bin, data_batch_2.bin" in message
    assert "or: data_batch_1, data_batch_2" in message
    assert f"{tmp_path} (lacks data_batch_4.bin)" in message
    assert f"{tmp_path / 'cifar-10-batches-py'} (no such folder)" in message
    assert "www.cs.toronto.edu/~kriz/cifar.html" in message
    assert "--data-folder DIR" in message


def test_a_hostile_batch_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    write_cifar10(tmp_path, VERSIONS["python 2"])
    path = tmp_path / "data_batch_3"
    path.write_bytes(pickle.dumps({b"data": Hostile(), b"labels": [1]}, protocol=2))
    with refused(f"{path}: refused the global '{os.system.__module__}.system'"):
        cifar10.load(tmp_path)
    assert not (tmp_path / "trace").exists()


# ------------------------------------------------------------------------------------------ class names


def test_class_names_come_from_the_text_beside_binary_batches(tmp_path):
    write_cifar10(tmp_path, VERSIONS["binary"])
    (tmp_path / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    assert cifar10.load(tmp_path).class_names == tuple(NAMES)


def test_class_names_come_from_the_pickle_beside_python_batches(tmp_path):
    write_cifar10(tmp_path, VERSIONS["python 2"])
    names = b"".join(python2_string(name.encode()) for name in NAMES)
    path = tmp_path / "batches.meta"
    path.write_bytes(b"\x80\x02}q\x01(U\x0blabel_names]q\x02(" + names + b"eU\x07num_visM\x00\x0cu.")
    assert cifar10.load(tmp_path).class_names == tuple(NAMES)


def test_class_names_in_bytes_are_text(tmp_path):
    write_cifar10(tmp_path, VERSIONS["python 3"])
    content = {b"label_names": [name.encode() for name in NAMES]}
    (tmp_path / "batches.meta").write_bytes(pickle.dumps(content, protocol=2))
    assert cifar10.load(tmp_path).class_names == tuple(NAMES)


@pytest.mark.parametrize("names", [NAMES[:9], [*NAMES[:9], "\x1b[2J"], [*NAMES[:9], 10], [*NAMES[:9], ""]])
def test_class_names_other_than_ten_words_are_refused(tmp_path, names):
    write_cifar10(tmp_path, VERSIONS["python 3"])
    path = tmp_path / "batches.meta"
    path.write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    with refused(f"{path}: expected 10 printable class names, found ['class0', 'class1',"):
        cifar10.load(tmp_path)


# ------------------------------------------------------------------------------------------ single batches


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected records of 3073 bytes, found 0 bytes, 0 records"),
        (bytes(4000), "expected records of 3073 bytes, found 4000 bytes, 1.30166 records"),
        (bytes(3073) + b"\x0b" + bytes(3072), "expected labels from 0 to 9, found 11 at position 1"),
    ],
)
def test_a_wrong_binary_batch_is_refused(tmp_path, content, sentence):
    path = tmp_path / "test_batch.bin"
    path.write_bytes(content)
    with refused(f"{path}: {sentence}"):
        cifar10.read_binary_batch(path)


DATA = make_pictures(2, (3072,))


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ({"labels": [1, 2]}, "expected an entry 'data', found ['labels']"),
        ({"data": DATA}, "expected an entry 'labels', found ['data']"),
        ({"data": [1, 2], "labels": [1, 2]}, "expected 'data' to be of type ndarray, found list"),
        ({"data": DATA, "labels": DATA}, "expected 'labels' to be of type list, found ndarray"),
        (
            {"data": DATA[:, :-1].copy(), "labels": [1, 2]},
            "expected data of shape (batch, 3072), found (2, 3071)",
        ),
        ({"data": DATA[0].copy(), "labels": [1]}, "expected data of shape (batch, 3072), found (3072,)"),
        ({"data": DATA, "labels": [1]}, "expected 2 labels, one for each row of data, found 1"),
        ({"data": DATA, "labels": [1, 10]}, "expected labels from 0 to 9, found 10 at position 1"),
        ({"data": DATA, "labels": [-1, 1]}, "expected labels from 0 to 9, found -1 at position 0"),
        ({"data": DATA, "labels": [1, True]}, "expected labels from 0 to 9, found True at position 1"),
        ({"data": DATA, "labels": ["1", 1]}, "expected labels from 0 to 9, found '1' at position 0"),
    ],
)
def test_a_wrong_python_batch_is_refused(tmp_path, batch, sentence):
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with refused(f"{path}: {sentence}"):
        cifar10.read_python_batch(path)


def test_a_batch_of_no_images_is_refused(tmp_path):
    path = tmp_path / "test_batch"
    path.write_bytes(python2_batch(DATA[:0], []))
    with refused(f"{path}: expected 0 bytes in a table, found shape (0, 3072)"):
        cifar10.read_python_batch(path)


def loads_or_is_corrupt(read, content):
    with suppress(CorruptData):
        images, labels = read_bytes(read, content)
        assert images.shape == (len(labels), 3, 32, 32)


@settings(max_examples=100, deadline=None)
@given(damaged(binary_batch(DATA, [1, 2])))
def test_a_damaged_binary_batch_loads_or_is_corrupt(content):
    loads_or_is_corrupt(cifar10.read_binary_batch, content)


@settings(max_examples=200, deadline=None)
@given(damaged(python2_batch(DATA, [1, 2])))
def test_a_damaged_python_batch_loads_or_is_corrupt(content):
    loads_or_is_corrupt(cifar10.read_python_batch, content)
