"""Where images lie."""

import numpy as np
import pytest

from pytensor_convnet import placement
from pytensor_convnet.cuda import cuda_mode
from pytensor_convnet.minibatches import SharedImages, StreamedImages
from pytensor_convnet.placement import gpu_of, placed_images
from tests.bars import QUICK

IMAGES = np.zeros((4, 1, 8, 8), "float32")


def placed(stream=None):
    return type(placed_images([(IMAGES, np.zeros(4))], QUICK, stream))


def test_on_a_cpu_images_are_streamed_on_demand_only():
    assert placed() is SharedImages
    assert placed(stream=True) is StreamedImages


@pytest.mark.parametrize(("less", "kind"), [(0, SharedImages), (2, StreamedImages)])
def test_on_a_gpu_images_are_streamed_that_take_more_than_half_of_it(monkeypatch, less, kind):
    monkeypatch.setattr(placement, "gpu_of", lambda mode: "cuda")
    monkeypatch.setattr(placement, "memory_of", lambda gpu: 2 * IMAGES.nbytes - less)
    assert placed() is kind
    assert placed(stream=False) is SharedImages


@pytest.mark.parametrize(
    ("environment", "gpu"),
    [
        ({}, "cuda"),
        ({"LOCAL_RANK": "1"}, "cuda:1"),
        ({"PYTENSOR_CONVNET_DEVICE": "cuda:3", "LOCAL_RANK": "1"}, "cuda:3"),
        ({"PYTENSOR_CONVNET_DEVICE": "cpu"}, None),
    ],
)
def test_the_gpu_is_the_one_that_the_environment_names(monkeypatch, environment, gpu):
    for name in ("LOCAL_RANK", "PYTENSOR_CONVNET_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert gpu_of("CUDA") == gpu


def test_other_modes_run_on_no_gpu():
    assert gpu_of(QUICK) is None
    assert gpu_of(cuda_mode(device="cpu")) is None


def test_a_mode_may_name_its_gpu_itself():
    assert gpu_of(cuda_mode(device="cuda:1")) == "cuda:1"
