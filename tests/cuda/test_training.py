"""Training in mode CUDA: it goes on where it stopped, streams, and learns what the CPU learns."""

import numpy as np
import pytest

from pytensor_convnet.cuda import cuda_mode
from pytensor_convnet.training import train
from tests.bars import SETTINGS, Dropout, made_up_dataset, make_lenet, same_values


@pytest.fixture(scope="module")
def dataset():
    return made_up_dataset()


@pytest.fixture(scope="module")
def mode(device):
    return cuda_mode(precision="ieee", device=device)


def test_a_training_with_dropout_is_resumed_to_the_bit(dataset, mode):
    def last_state(epochs, resume=None):
        states = []
        network = Dropout(np.random.default_rng(0), dataset.image_shape, dataset.number_of_classes)
        settings = SETTINGS | {"epochs": epochs, "mode": mode}
        train(network, dataset, resume=resume, on_state=states.append, **settings)
        return states[-1]

    at_once, resumed = last_state(2), last_state(2, resume=last_state(1))
    assert same_values(at_once.parameters, resumed.parameters)
    assert same_values(at_once.velocities, resumed.velocities)
    np.testing.assert_array_equal(at_once.random_states, resumed.random_states)


def test_it_learns_what_the_cpu_learns_from_resident_and_from_streamed_images(dataset, mode, device):
    lenets = {}
    for name, changes in {"cpu": {}, "resident": {"mode": mode}, "streamed": {"mode": mode, "stream": True}}.items():
        lenets[name] = make_lenet(dataset)
        train(lenets[name], dataset, **SETTINGS | {"epochs": 1} | changes)
    if device == "cpu":  # on a GPU these are two programs, compiled each on its own
        assert same_values(lenets["resident"].get_values(), lenets["streamed"].get_values())
    for name, value in lenets["cpu"].get_values().items():
        for kind in ("resident", "streamed"):
            np.testing.assert_allclose(lenets[kind].get_values()[name], value, rtol=1e-3, atol=1e-5)
