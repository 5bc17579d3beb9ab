"""Copies of images, moved."""

import numpy as np

from pytensor_convnet.augmentation import moved_copies


def test_moved_copies_follow_the_images_themselves():
    images = np.random.default_rng(0).random((4, 1, 16, 16), dtype="float32")
    copies = moved_copies(images, 2)
    assert copies.shape == (20, 1, 16, 16)
    np.testing.assert_array_equal(copies[:4], images)
    np.testing.assert_array_equal(copies[4:8, :, :-2], images[:, :, 2:])
    np.testing.assert_array_equal(copies[12:16, :, :, :-2], images[:, :, :, 2:])
