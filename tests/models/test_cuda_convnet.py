"""The network of cuda-convnet: shapes, initial parameters, and what its layers compute."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

from pytensor_convnet import conv2d, max_pool_2d, pool_2d
from pytensor_convnet.models import MODELS, CudaConvnet

QUICK = Mode(linker="py", optimizer="fast_compile")


def make(image_shape=(3, 32, 32), classes=10):
    return CudaConvnet(np.random.default_rng(0), image_shape, classes)


def compute(network, images, expression):
    symbols = pt.tensor("images", shape=(None, *network.image_shape), dtype="float32")
    return pytensor.function([symbols], expression(symbols), mode=QUICK)(images)


def random_images(*shape):
    return np.random.default_rng(1).uniform(size=shape).astype("float32")


def test_it_is_known_by_its_name():
    assert MODELS["cuda_convnet"] is CudaConvnet


def test_parameters_have_the_shapes_of_layers_80sec():
    assert {name: value.shape for name, value in make().get_values().items()} == {
        "conv1_filters": (32, 3, 5, 5),
        "conv1_biases": (32,),
        "conv2_filters": (32, 32, 5, 5),
        "conv2_biases": (32,),
        "conv3_filters": (64, 32, 5, 5),
        "conv3_biases": (64,),
        "softmax_weights": (1024, 10),
        "softmax_biases": (10,),
    }


def test_filters_start_as_rectifiers_want_them():
    for name, fan_in in {"conv1_filters": 75, "conv2_filters": 800, "conv3_filters": 800}.items():
        filters = make().parameters[name].get_value()
        assert filters.dtype == np.float32
        np.testing.assert_allclose(filters.std(), np.sqrt(2 / fan_in), rtol=0.05)


def test_an_untrained_network_has_no_prejudice():
    network = make((1, 9, 12), 4)
    images = random_images(2, 1, 9, 12)
    np.testing.assert_allclose(compute(network, images, network.probabilities), 0.25, rtol=1e-6)


def test_it_computes_what_its_plan_says():
    network = make((2, 9, 12), 3)
    p = network.parameters
    p["softmax_weights"].set_value(random_images(*p["softmax_weights"].type.shape) - np.float32(0.5))
    for number in (1, 2, 3):
        p[f"conv{number}_biases"].set_value(random_images(*p[f"conv{number}_biases"].type.shape) - np.float32(0.5))
    pooling = {"ignore_border": True, "stride": (2, 2), "pad": (1, 1)}

    def layer(images, number):
        biases = p[f"conv{number}_biases"][None, :, None, None]
        return conv2d(images, p[f"conv{number}_filters"], border_mode=2) + biases

    def plan(images):
        maximum = max_pool_2d(layer(images, 1), (3, 3), st=(2, 2), padding=(1, 1), ignore_border=True)
        x = pt.maximum(maximum, 0)
        for number in (2, 3):
            x = pool_2d(pt.maximum(layer(x, number), 0), (3, 3), mode="average_inc_pad", **pooling)
        return x.flatten(2) @ p["softmax_weights"] + p["softmax_biases"]

    images = random_images(2, 2, 9, 12)
    np.testing.assert_allclose(compute(network, images, network.logits), compute(network, images, plan), rtol=1e-4)


@pytest.mark.parametrize("image_shape", [(0, 32, 32), (3, 0, 32), (3, 32, -1)])
def test_images_without_pixels_are_refused(image_shape):
    with pytest.raises(ValueError, match="image_shape must be .* all positive"):
        make(image_shape)
