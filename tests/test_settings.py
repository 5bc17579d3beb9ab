"""Settings that cannot work, and those that tell one training from another."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pytensor_convnet.models import Lenet
from pytensor_convnet.settings import InvalidSetting, Settings, images_digest
from pytensor_convnet.training import train
from tests.bars import SETTINGS, made_up_dataset, make_lenet


@pytest.fixture(scope="module")
def dataset():
    return made_up_dataset()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "epochs must be a positive integer, got 0"),
        ("epochs", 1.5, "epochs must be a positive integer, got 1.5"),
        ("batch_size", -3, "batch_size must be a positive integer, got -3"),
        ("batch_size", 37, "batch_size must be at most the number of images to learn from, got 37 for 36 images"),
        ("learning_rate", 0, "learning_rate must be a positive number, got 0"),
        ("learning_rate", -0.1, "learning_rate must be a positive number"),
        ("learning_rate", math.nan, "learning_rate must be a positive number, got nan"),
        ("learning_rate", math.inf, "learning_rate must be a positive number, got inf"),
        ("momentum", 1, "momentum must be at least 0 and below 1, got 1"),
        ("momentum", -0.5, "momentum must be at least 0"),
        ("mode", "FASTEST", "mode must be one of .*FAST_COMPILE.*NUMBA.*got 'FASTEST'"),
        ("validation_fraction", 1, "validation_fraction must .* leave some of the 40 training images .* got 1"),
        ("validation_fraction", -0.1, "validation_fraction must be at least 0 .* got -0.1"),
        ("validation_fraction", math.nan, "validation_fraction must be at least 0 .* got nan"),
        ("shift", -1, "shift must be an integer from 0 to below the 16 x 16 pixels, got -1"),
        ("shift", 16, "shift must be an integer .* got 16"),
        ("shift", 1.5, "shift must be an integer .* got 1.5"),
        ("shift", True, "shift must be an integer .* got True"),
        ("seed", -1, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(dataset, setting, value, message):
    with pytest.raises(InvalidSetting, match=message):
        train(make_lenet(dataset), dataset, **SETTINGS | {setting: value})


def test_a_network_for_other_images_is_refused(dataset):
    lenet = Lenet(np.random.default_rng(0), (1, 28, 28), 3)
    with pytest.raises(InvalidSetting, match=r"model must be for 3 classes of images \(1, 16, 16\)"):
        train(lenet, dataset, **SETTINGS)


def test_the_record_tells_images_labels_and_settings_apart(dataset):
    settings = Settings(8, 0.02, 0.9, 0, 0, 0.1)
    lenet = make_lenet(dataset)
    record = settings.record(lenet, dataset)
    assert record == replace(settings, batch_size=np.int64(8)).record(lenet, made_up_dataset())
    assert record != replace(settings, shift=1).record(lenet, dataset)
    others = [
        replace(dataset, train_images=1 - dataset.train_images),
        replace(dataset, train_labels=2 - dataset.train_labels),
    ]
    assert len({images_digest(each) for each in (dataset, *others)}) == 3
