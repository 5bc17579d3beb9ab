"""LeNet: shapes, initial parameters, and that it computes what the tutorial's network computes."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.models import MODELS, Classifier, Lenet, Normalisation
from pytensor_convnet.models.lenet import convolution_layer

QUICK = Mode(linker="py", optimizer="fast_compile")


def make_lenet(image_shape=(1, 28, 28), classes=10, **arguments):
    return Lenet(np.random.default_rng(0), image_shape, classes, **arguments)


def symbolic_images(shape=(1, 28, 28)):
    return pt.tensor("images", shape=(None, *shape), dtype="float32")


def compute(lenet, images, method="probabilities"):
    symbols = symbolic_images(lenet.image_shape)
    return pytensor.function([symbols], getattr(lenet, method)(symbols), mode=QUICK)(images)


def random_images(*shape):
    return np.random.default_rng(1).uniform(size=shape).astype("float32")


def test_it_is_known_by_its_name():
    assert MODELS["lenet"] is Lenet
    assert all(issubclass(model, Classifier) and model.name == name for name, model in MODELS.items())


def test_parameters_have_the_tutorials_shapes():
    shapes = {name: parameter.get_value().shape for name, parameter in make_lenet().parameters.items()}
    assert shapes == {
        "conv1_filters": (20, 1, 5, 5),
        "conv1_biases": (20,),
        "conv2_filters": (50, 20, 5, 5),
        "conv2_biases": (50,),
        "hidden_weights": (800, 500),
        "hidden_biases": (500,),
        "softmax_weights": (500, 10),
        "softmax_biases": (10,),
    }


@pytest.mark.parametrize("floatX", ["float32", "float64"])
def test_everything_is_float32_whatever_floatx_is(floatX):
    with pytensor.config.change_flags(floatX=floatX):
        lenet = make_lenet()
        assert {parameter.type.dtype for parameter in lenet.parameters.values()} == {"float32"}
        cost = lenet.log_probabilities(symbolic_images()).sum()
        assert cost.type.dtype == "float32"
        assert {g.type.dtype for g in pytensor.grad(cost, list(lenet.parameters.values()))} == {"float32"}


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("conv1_filters", np.sqrt(6 / (1 * 25 + 20 * 25 // 4))),
        ("conv2_filters", np.sqrt(6 / (20 * 25 + 50 * 25 // 4))),
        ("hidden_weights", np.sqrt(6 / (800 + 500))),
    ],
)
def test_weights_of_tanh_layers_start_uniform_within_the_tutorials_bounds(name, bound):
    weights = make_lenet().parameters[name].get_value()
    assert np.abs(weights).max() <= bound
    assert np.abs(weights).max() > 0.95 * bound
    np.testing.assert_allclose(weights.std(), bound / np.sqrt(3), rtol=0.1)


@pytest.mark.parametrize("name", ["conv1_biases", "conv2_biases", "hidden_biases", "softmax_weights", "softmax_biases"])
def test_biases_and_the_softmax_layer_start_at_zero(name):
    assert not make_lenet().parameters[name].get_value().any()


def test_an_untrained_network_has_no_prejudice():
    np.testing.assert_allclose(compute(make_lenet(), random_images(3, 1, 28, 28)), 0.1, rtol=1e-6)


def test_the_same_seed_gives_the_same_network():
    first, second = make_lenet().get_values(), make_lenet().get_values()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("image_shape", "classes"), [((1, 28, 28), 10), ((3, 32, 32), 100), ((2, 16, 20), 2), ((4, 29, 41), 3)]
)
def test_any_channels_sizes_and_classes(image_shape, classes):
    lenet = make_lenet(image_shape, classes)
    probabilities = compute(lenet, random_images(5, *image_shape))
    assert probabilities.shape == (5, classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("image_shape", [(1, 15, 28), (1, 28, 15), (0, 28, 28), (1, -28, -28)])
def test_images_that_are_too_small_are_refused(image_shape):
    with pytest.raises(ValueError, match="image_shape must be .* at least 16 rows"):
        make_lenet(image_shape)


def test_pooling_before_the_bias_and_tanh_gives_what_pooling_after_them_gives():
    images, filters = symbolic_images((2, 12, 12)), pt.tensor("filters", shape=(3, 2, 5, 5), dtype="float32")
    biases = pt.fvector("biases")
    after = max_pool_2d(pt.tanh(conv2d(images, filters) + biases[None, :, None, None]), (2, 2), ignore_border=True)
    function = pytensor.function(
        [images, filters, biases], [convolution_layer(images, filters, biases), after], mode=QUICK
    )
    before, after = function(random_images(2, 2, 12, 12), random_images(3, 2, 5, 5) - 0.5, random_images(3))
    np.testing.assert_allclose(before, after, rtol=1e-6)


def test_log_probabilities_stay_finite_where_probabilities_vanish():
    lenet = make_lenet()
    values = lenet.get_values()
    values["softmax_biases"][0] = 500
    lenet.set_values(values)
    logs = compute(lenet, random_images(1, 1, 28, 28), "log_probabilities")
    np.testing.assert_allclose(logs, [[0] + [-500] * 9], rtol=1e-5)


def test_normalisation_happens_within_the_network():
    images = random_images(6, 2, 16, 16) * np.array([0.5, 0.2], "float32")[:, None, None]
    normalisation = Normalisation.of(images)
    by_hand = (images - normalisation.mean[:, None, None]) / normalisation.deviation[:, None, None]
    np.testing.assert_allclose(by_hand.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(by_hand.std(axis=(0, 2, 3)), 1, rtol=1e-5)
    plain, normalising = make_lenet((2, 16, 16), 3), make_lenet((2, 16, 16), 3, normalisation=normalisation)
    values = plain.get_values() | {"softmax_weights": random_images(500, 3)}
    plain.set_values(values)
    normalising.set_values(values)
    np.testing.assert_allclose(compute(normalising, images), compute(plain, by_hand), rtol=1e-4)


def test_a_channel_that_is_the_same_everywhere_is_not_divided_by_zero():
    assert Normalisation.of(np.full((2, 1, 3, 3), 0.25, "float32")).deviation.tolist() == [1]


def test_first_filters_lie_as_they_meet_the_image():
    lenet = make_lenet()
    filters = lenet.parameters["conv1_filters"].get_value()
    np.testing.assert_array_equal(lenet.first_filters(), filters[:, :, ::-1, ::-1])


def test_values_that_do_not_fit_are_refused_and_change_nothing():
    lenet = make_lenet()
    before = lenet.get_values()
    with pytest.raises(ValueError, match="values must be of the parameters conv1_filters"):
        lenet.set_values({"conv1_filters": before["conv1_filters"]})
    wrong_shape = before | {"conv1_filters": before["conv1_filters"] + 1, "softmax_biases": np.zeros(3, "float32")}
    with pytest.raises(
        ValueError, match=r"softmax_biases must be float32 of shape \(10,\), got float32 of shape \(3,\)"
    ):
        lenet.set_values(wrong_shape)
    with pytest.raises(ValueError, match="softmax_biases must be float32"):
        lenet.set_values(before | {"softmax_biases": np.zeros(10)})
    assert all(np.array_equal(before[name], value) for name, value in lenet.get_values().items())
