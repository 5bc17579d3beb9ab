"""Correlation and max pooling become one step, in the forward pass and in both gradients."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.scalar.basic import Tanh
from pytensor.tensor.elemwise import Elemwise

from pytensor_convnet import conv2d, max_pool_2d, pool_2d
from pytensor_convnet.models.lenet import Lenet
from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CorrelateMaxPool2d,
    CorrelateMaxPool2dBiasGrad,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
    MaxPool2d,
    MaxPool2dGrad,
)
from tests.rewriting.common import FUSING, FUSIONS, check, compiled, count, elementwise_rows, operations

random = np.random.default_rng(0)
images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
biases = pt.vector("biases", dtype="float64")
bias = biases.dimshuffle("x", 0, "x", "x")
inputs = [images, filters, biases]
values = [random.standard_normal(shape) for shape in [(3, 2, 11, 10), (4, 2, 3, 3), (4,)]]
MUTING = FUSING.including("fuse_rectifier_by_muting_winners")
UNFUSED = (Correlate2d, Correlate2dFilterGrad, Correlate2dInputGrad, MaxPool2d, MaxPool2dGrad)
FUSED = (CorrelateMaxPool2d, CorrelateMaxPool2dFilterGrad, CorrelateMaxPool2dInputGrad)

NETWORKS = {
    "pool-then-tanh": lambda: pt.tanh(max_pool_2d(conv2d(images, filters), 2) + bias),
    "tanh-then-pool": lambda: max_pool_2d(pt.tanh(conv2d(images, filters) + bias), 2, True),
    "strided-overlapping": lambda: max_pool_2d(
        pt.maximum(conv2d(images, filters, border_mode=((2, 0), (1, 1)), subsample=(2, 1)) + bias, 0),
        (3, 3), True, (2, 1), (1, 1),
    ),
    "dilated-flipped": lambda: max_pool_2d(
        pt.sigmoid(conv2d(images, filters[:, :, ::-1, ::-1], filter_flip=False, filter_dilation=2) + bias), (2, 3)
    ),
    "half": lambda: max_pool_2d(conv2d(images, filters, border_mode="half") + bias, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_stay(name):
    pooled = NETWORKS[name]()
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), inputs)]
    for rewrite in ("convnet", *FUSIONS):
        rewritten, plain = check(rewrite, inputs, outputs, values, mode=FUSING)
        assert not any(count(rewritten, op) for op in UNFUSED)
        assert [count(rewritten, op) for op in FUSED] == [1, 1, 1]
    assert any(count(plain, op) for op in UNFUSED)


def test_forward_alone_is_fused():
    function, _ = check(FUSIONS[0], inputs[:2], [max_pool_2d(conv2d(images, filters), 2)], values[:2], mode=FUSING)
    assert count(function, CorrelateMaxPool2d) == 1


def network_of(dtype):
    """The inputs of a network in a dtype, and its pooled and biased maps."""
    tensors = [pt.tensor4(dtype=dtype), pt.tensor4(dtype=dtype), pt.vector(dtype=dtype)]
    return tensors, max_pool_2d(conv2d(*tensors[:2]), 2) + tensors[2].dimshuffle("x", 0, "x", "x")


def the_fused(function):
    """The fused forward Ops of a function, inputs first."""
    return [op for op in operations(function) if isinstance(op, CorrelateMaxPool2d)]


def test_a_bias_joins():
    outputs = [max_pool_2d(conv2d(images, filters) + bias, 2)]
    rewritten, plain = check("fuse_bias_and_activation", inputs, outputs, values, mode=FUSING)
    assert count(rewritten, Elemwise) == 0
    assert count(plain, Elemwise) == 1


def test_two_biases_join():
    outputs = [max_pool_2d(conv2d(images, filters) + bias, 2) + bias]
    check("fuse_bias_and_activation", inputs, outputs, values, mode=FUSING)


@pytest.mark.parametrize(
    ("name", "function", "dtype"),
    [
        ("relu", lambda x: pt.maximum(x, 0), "float64"),
        ("relu", lambda x: pt.maximum(0, x), "float32"),
        ("tanh", pt.tanh, "float32"),
    ],
    ids=["relu", "relu-float32", "tanh"],
)
def test_an_activation_joins_after_its_bias(name, function, dtype):
    tensors, pooled = network_of(dtype)
    arrays = [value.astype(dtype) for value in values]
    outputs = [function(pooled)]
    rewritten, plain = check("fuse_bias_and_activation", tensors, outputs, arrays, mode=FUSING, tolerance=1e-5)
    assert [op.activation for op in the_fused(rewritten)] == [name]
    assert [op.activation for op in the_fused(plain)] == ["identity"]


@pytest.mark.parametrize(
    "function", [pt.sigmoid, pt.tanh, lambda x: pt.maximum(x, 1), lambda x: pt.maximum(x, 0) * x, lambda x: x + x]
)
def test_other_functions_of_float64_do_not_join(function):
    outputs = [function(max_pool_2d(conv2d(images, filters), 2))]
    function = compiled(inputs, outputs, mode=FUSING)
    assert [op.activation for op in the_fused(function)] == ["identity"]


def test_an_activation_whose_gradient_reads_the_maxima_does_not_join():
    pooled = pt.maximum(max_pool_2d(conv2d(images, filters), 2) + bias, 0)
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), inputs)]
    rewritten, _ = check("convnet", inputs, outputs, values, mode=FUSING)
    assert [op.activation for op in the_fused(rewritten)] == ["identity"]


WHOLE = [random.integers(-1, 2, value.shape).astype("float64") for value in values]
"""Whole numbers, of which many maxima are exactly zero."""


def test_a_rectifier_and_its_gradient_join_by_muting_winners():
    pooled = pt.maximum(max_pool_2d(conv2d(images, filters), 2) + bias, 0)
    outputs = [pooled, *pytensor.grad((pooled**2 + images.sum() * pooled).sum(), inputs)]
    rewritten, plain = check("fuse_rectifier_by_muting_winners", inputs, outputs, WHOLE, mode=MUTING)
    assert [op.activation for op in the_fused(rewritten)] == ["muting_relu"]
    assert count(rewritten, CorrelateMaxPool2dBiasGrad) == 0
    assert [op.activation for op in the_fused(plain)] == ["identity"]


def test_the_gradient_of_biases_reads_muted_winners():
    pooled = pt.maximum(max_pool_2d(conv2d(images, filters), 2) + bias, 0)
    weights = pt.cos(pt.arange(pooled.size).reshape(pooled.shape))
    outputs = [pooled, *pytensor.grad((pooled**2 * weights).sum(), inputs)]
    name = "fuse_bias_grad_and_muted_winners"
    rewritten, _ = check(name, inputs, outputs, WHOLE, mode=MUTING.including(name))
    assert [count(rewritten, op) for op in (CorrelateMaxPool2d, CorrelateMaxPool2dBiasGrad)] == [1, 1]


@pytest.mark.parametrize(
    "summed",
    [
        lambda maxima, pooled: pt.neq(pooled, 0) * pooled,
        lambda maxima, pooled: pt.ge(maxima, 0) * pt.arange(pooled.size).reshape(pooled.shape),
    ],
    ids=["another comparison", "whole numbers"],
)
def test_other_sums_beside_muted_winners_stay(summed):
    maxima = max_pool_2d(conv2d(images, filters), 2) + bias
    pooled = pt.maximum(maxima, 0)
    sums = summed(maxima, pooled).sum(axis=(0, 2, 3))
    outputs = [sums, *pytensor.grad((pooled**2).sum(), inputs)]
    mode = MUTING.including("fuse_bias_grad_and_muted_winners")
    function, plain = compiled(inputs, outputs, mode=mode), compiled(inputs, outputs, "convnet", mode=mode)
    for ours, other in zip(function(*WHOLE), plain(*WHOLE), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-10)


def test_winners_are_not_muted_where_every_byte_numbers_a_tap():
    shapes = [(2, 1, 33, 33), (2, 1, 2, 2), (2,)]
    large = [random.integers(-1, 2, shape).astype("float64") for shape in shapes]
    pooled = pt.maximum(max_pool_2d(conv2d(images, filters), (16, 16)) + bias, 0)
    function = compiled(inputs, pytensor.grad((pooled**2).sum(), inputs), mode=MUTING)
    assert [op.activation for op in the_fused(function)] == ["identity"]
    for ours, other in zip(
        function(*large), compiled(inputs, pytensor.grad((pooled**2).sum(), inputs), "convnet")(*large)
    ):
        np.testing.assert_allclose(ours, other)


@pytest.mark.parametrize(
    "cost",
    [
        lambda maxima: (pt.maximum(maxima, 0) + maxima**2).sum(),
        lambda maxima: (pt.maximum(maxima, 1) ** 2).sum(),
        lambda maxima: pt.maximum(maxima, 0).sum(),
    ],
    ids=["read elsewhere", "another bound", "one for all"],
)
def test_winners_are_not_muted_where_gradients_are_no_maps_of_the_rectifiers(cost):
    maxima = max_pool_2d(conv2d(images, filters), 2) + bias
    outputs = pytensor.grad(cost(maxima), inputs)
    function = compiled(inputs, outputs, mode=MUTING)
    assert [op.activation for op in the_fused(function)] == ["identity"]
    for ours, other in zip(function(*WHOLE), compiled(inputs, outputs, "convnet", mode=MUTING)(*WHOLE)):
        np.testing.assert_allclose(ours, other)


def test_an_activation_before_a_reshape_is_computed_once():
    tensors, pooled = network_of("float32")
    hidden = pt.tanh(pooled).flatten(2)
    outputs = [hidden, *pytensor.grad((hidden**2).sum(), tensors)]
    arrays = [value.astype("float32") for value in values]
    rewritten, _ = check("move_activation_before_reshape", tensors, outputs, arrays, mode=FUSING, tolerance=1e-3)
    assert [op.activation for op in the_fused(rewritten)] == ["tanh"]
    assert not any(isinstance(getattr(op, "scalar_op", None), Tanh) for op in operations(rewritten))


def test_the_numba_backend_fuses():
    pooled = NETWORKS["tanh-then-pool"]()
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), inputs)]
    function = pytensor.function(inputs, outputs, mode="NUMBA")
    assert [count(function, op) for op in FUSED] == [1, 1, 1]
    for ours, other in zip(function(*values), compiled(inputs, outputs, "convnet")(*values)):
        np.testing.assert_allclose(ours, other, rtol=1e-10, atol=1e-10)


def test_other_linkers_do_not():
    assert count(compiled(inputs, NETWORKS["half"]()), CorrelateMaxPool2d) == 0


def test_maps_that_others_read_are_not_fused():
    maps = conv2d(images, filters)
    for outputs in ([max_pool_2d(maps, 2), maps], [max_pool_2d(maps, 2), pool_2d(maps, 2, mode="sum")]):
        assert count(compiled(inputs, outputs, mode=FUSING), CorrelateMaxPool2d) == 0
    pooled = max_pool_2d(pt.sin(maps), 2)
    assert count(compiled(inputs, pooled, mode=FUSING), CorrelateMaxPool2d) == 0


def test_scattered_gradients_that_others_read_are_not_fused():
    maps = conv2d(images, filters)
    pooled = max_pool_2d(maps, 2)
    outputs = pytensor.grad((pooled**2).sum(), [maps, images, filters])
    function = compiled(inputs, outputs, mode=FUSING)
    assert [count(function, op) for op in FUSED[1:]] == [0, 0]
    assert count(function, MaxPool2dGrad) == 1


def test_symbolic_windows_are_not_fused():
    size = pt.lscalar("size")
    pooled = max_pool_2d(conv2d(images, filters), (size, size))
    function = compiled([*inputs, size], [pooled, pytensor.grad(pooled.sum(), filters)], mode=FUSING)
    assert not any(count(function, op) for op in FUSED)


def test_grouped_and_pixelwise_filters():
    pooled = max_pool_2d(conv2d(images, filters[:, :1], num_groups=2), 2)
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), inputs[:2])]
    rewritten, _ = check("convnet", inputs[:2], outputs, values[:2], mode=FUSING)
    assert count(rewritten, CorrelateMaxPool2d) == 1
    local = pt.tensor("local", dtype="float64", shape=(None,) * 6)
    pooled = max_pool_2d(conv2d(images, local, unshared=True), 2)
    function = compiled([images, local], [pooled, pytensor.grad(pooled.sum(), local)], mode=FUSING)
    assert not any(count(function, op) for op in FUSED)


def test_a_training_step_of_lenet_works_at_pooled_resolution_only():
    x, y = pt.tensor("x", dtype="float32", shape=(None, 1, 28, 28)), pt.ivector("y")
    network = Lenet(random, image_shape=(1, 28, 28), number_of_classes=10)
    parameters = list(network.parameters.values())
    loss = -pt.log(network.probabilities(x)[pt.arange(y.shape[0]), y]).mean()
    outputs = [loss, *pytensor.grad(loss, parameters)]
    arrays = [random.standard_normal((7, 1, 28, 28)).astype("float32"), np.arange(7, dtype="int32")]
    rewritten, _ = check("convnet", [x, y], outputs, arrays, mode=FUSING, tolerance=1e-5)
    assert not any(count(rewritten, op) for op in UNFUSED)
    assert [count(rewritten, op) for op in FUSED] == [2, 2, 1]
    assert elementwise_rows(rewritten) <= {28, 12, 4}, "28 is the normalisation of the images"


def test_a_cuda_convnet_stack_with_activations_in_front_of_pools():
    x = pt.tensor("x", dtype="float64", shape=(2, 3, 16, 16))
    shapes = [(4, 3, 5, 5), (4,), (6, 4, 5, 5), (6,)]
    parameters = [pt.tensor(dtype="float64", shape=shape) for shape in shapes]
    w1, b1, w2, b2 = parameters
    hidden = pt.maximum(conv2d(x, w1, border_mode="half") + b1.dimshuffle("x", 0, "x", "x"), 0)
    hidden = max_pool_2d(hidden, 3, True, 2, 1)
    hidden = pt.maximum(conv2d(hidden, w2, border_mode="half") + b2.dimshuffle("x", 0, "x", "x"), 0)
    pooled = pool_2d(hidden, 3, True, 2, 1, mode="average_inc_pad")
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), parameters)]
    arrays = [random.standard_normal(shape) for shape in [(2, 3, 16, 16), *shapes]]
    rewritten, plain = check("convnet", [x, *parameters], outputs, arrays, mode=FUSING)
    assert elementwise_rows(rewritten) <= {8, 4}
    assert 16 in elementwise_rows(plain)
    assert [count(rewritten, op) for op in FUSED] == [1, 1, 0]
