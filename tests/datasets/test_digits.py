import sys

import numpy as np
import pytest

from pytensor_convnet.datasets import digits


def test_digits_are_what_a_lenet_reads():
    dataset = digits.load()
    assert dataset.train_images.shape == (1438, 1, 28, 28)
    assert dataset.test_images.shape == (359, 1, 28, 28)
    assert dataset.train_images.dtype == np.float32
    assert dataset.train_labels.dtype == np.int32
    assert dataset.class_names == tuple("0123456789")


def test_digits_fill_the_range():
    images = digits.load().train_images
    assert images.min() == 0
    assert 0.9 < images.max() <= 1


def test_digits_have_the_border_of_mnist():
    images = digits.load().train_images.copy()
    images[:, :, 4:24, 4:24] = 0
    assert not images.any()


def test_the_split_holds_every_digit_once():
    dataset = digits.load()
    images = np.concatenate([dataset.train_images, dataset.test_images])
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    expected = digits.frame(bundled.images / 16)
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected))


def test_labels_stay_with_their_images():
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    expected = {bytes(image): label for image, label in zip(digits.frame(bundled.images / 16), bundled.target)}
    dataset = digits.load(seed=3)
    assert [expected[bytes(image)] for image in dataset.test_images] == dataset.test_labels.tolist()
    assert [expected[bytes(image)] for image in dataset.train_images] == dataset.train_labels.tolist()


def test_each_digit_is_tested_in_proportion():
    dataset = digits.load()
    tested = np.bincount(dataset.test_labels, minlength=10)
    everything = tested + np.bincount(dataset.train_labels, minlength=10)
    np.testing.assert_allclose(tested / everything, 0.2, atol=0.003)


def test_one_seed_gives_one_data_set():
    first, second = digits.load(seed=7), digits.load(seed=7)
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.test_labels, second.test_labels)


def test_another_seed_gives_another_split():
    assert not np.array_equal(digits.load(seed=0).test_images, digits.load(seed=1).test_images)


def test_the_first_minibatch_holds_all_classes():
    assert set(digits.load().train_labels[:100].tolist()) == set(range(10))


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"scikit-learn.*pip install 'pytensor-convnet\[train\]'"):
        digits.load()


@pytest.mark.parametrize(("length", "new_length"), [(8, 20), (8, 8), (1, 5), (5, 3)])
def test_interpolation_weights_sum_to_one(length, new_length):
    matrix = digits.interpolation_matrix(length, new_length)
    assert matrix.shape == (new_length, length)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_interpolation_to_the_same_length_changes_nothing():
    np.testing.assert_array_equal(digits.interpolation_matrix(8, 8), np.eye(8))


def test_interpolation_is_the_linear_one_between_the_middles():
    middles = (np.arange(20) + 0.5) * 8 / 20 - 0.5
    values = np.random.default_rng(0).random(8)
    expected = np.interp(middles, np.arange(8), values)
    np.testing.assert_allclose(digits.interpolation_matrix(8, 20) @ values, expected)


def test_a_frame_keeps_rows_rows():
    image = np.zeros((1, 8, 8))
    image[0, 0, :] = 1
    framed = digits.frame(image)[0, 0]
    assert framed[4, 4:24].all()
    assert not framed[12:].any()
