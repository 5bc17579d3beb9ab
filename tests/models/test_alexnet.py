"""AlexNet: shapes, initial parameters, and images that are too small for it."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

from pytensor_convnet.models import MODELS, Alexnet, AlexnetSmall

QUICK = Mode(linker="py", optimizer="fast_compile")


def test_it_is_known_by_its_name():
    assert MODELS["alexnet"] is Alexnet
    assert MODELS["alexnet_small"] is AlexnetSmall


def test_parameters_have_the_shapes_of_the_paper():
    assert Alexnet.parameter_shapes((3, 224, 224), 1000) == {
        "conv1_filters": (96, 3, 11, 11),
        "conv1_biases": (96,),
        "conv2_filters": (256, 96, 5, 5),
        "conv2_biases": (256,),
        "conv3_filters": (384, 256, 3, 3),
        "conv3_biases": (384,),
        "conv4_filters": (384, 384, 3, 3),
        "conv4_biases": (384,),
        "conv5_filters": (256, 384, 3, 3),
        "conv5_biases": (256,),
        "hidden1_weights": (9216, 4096),
        "hidden1_biases": (4096,),
        "hidden2_weights": (4096, 4096),
        "hidden2_biases": (4096,),
        "softmax_weights": (4096, 1000),
        "softmax_biases": (1000,),
    }


def test_its_graph_knows_its_shapes_and_an_untrained_network_has_no_prejudice():
    network = Alexnet(np.random.default_rng(0), (1, 63, 63), 5)
    assert network.parameters["hidden1_weights"].type.shape == (256, 4096)
    images = pt.tensor("images", shape=(2, 1, 63, 63), dtype="float32")
    assert network.logits(images).type.shape[1] == 5
    function = pytensor.function([images], network.probabilities(images), mode=QUICK)
    values = np.random.default_rng(1).uniform(size=(2, 1, 63, 63)).astype("float32")
    np.testing.assert_allclose(function(values), 0.2, rtol=1e-6)


@pytest.mark.parametrize("name", ["conv2_filters", "hidden2_weights"])
def test_weights_start_as_rectifiers_want_them(name):
    shape = Alexnet.parameter_shapes((3, 224, 224), 10)[name]
    weights = Alexnet.initial_value(np.random.default_rng(0), name, shape)
    assert weights.dtype == np.float32
    fan_in = {"conv2_filters": 96 * 25, "hidden2_weights": 4096}[name]
    np.testing.assert_allclose(weights.std(), np.sqrt(2 / fan_in), rtol=0.05)


@pytest.mark.parametrize("image_shape", [(3, 62, 224), (3, 224, 62), (0, 224, 224)])
def test_images_that_are_too_small_are_refused(image_shape):
    with pytest.raises(ValueError, match="image_shape must be .* at least 63 rows and columns"):
        Alexnet.parameter_shapes(image_shape, 10)


@pytest.mark.parametrize(("image_shape", "inputs"), [((3, 32, 32), 128 * 3 * 3), ((1, 28, 28), 128 * 2 * 2)])
def test_the_small_one_reads_small_images(image_shape, inputs):
    network = AlexnetSmall(np.random.default_rng(0), image_shape, 10)
    assert network.parameters["hidden1_weights"].type.shape == (inputs, 512)
    images = pt.tensor("images", shape=(2, *image_shape), dtype="float32")
    function = pytensor.function([images], network.probabilities(images), mode=QUICK)
    values = np.random.default_rng(1).uniform(size=(2, *image_shape)).astype("float32")
    np.testing.assert_allclose(function(values), 0.1, rtol=1e-6)


def test_the_small_one_says_how_small():
    assert AlexnetSmall.parameter_shapes((1, 15, 15), 10)["hidden1_weights"] == (128, 512)
    with pytest.raises(ValueError, match="at least 15 rows and columns"):
        AlexnetSmall.parameter_shapes((1, 14, 15), 10)
