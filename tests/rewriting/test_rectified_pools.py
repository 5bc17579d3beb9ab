"""Bias, rectifier and average pooling become one step, and so does the gradient."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.scalar.basic import EQ, GE, Maximum
from pytensor.tensor.math import Sum

from pytensor_convnet import conv2d, max_pool_2d, pool_2d
from pytensor_convnet.cuda_convnet import FilterActs
from pytensor_convnet.models import CudaConvnet
from pytensor_convnet.ops import AveragePool2d, AveragePool2dGrad, RectifiedAveragePool2d, RectifiedAveragePool2dGrad
from tests.ops.common import PYTHON
from tests.rewriting.common import check, compiled, count, operations

NAME = "fuse_rectifier_and_average_pool"
FUSING = PYTHON.including(NAME)
ALONE = "fuse_bias_and_rectifier"
WITHOUT_POOLS = PYTHON.including(ALONE)
FUSED, UNFUSED = (RectifiedAveragePool2d, RectifiedAveragePool2dGrad), (AveragePool2d, AveragePool2dGrad)

random = np.random.default_rng(0)
images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
biases = pt.vector("biases", dtype="float64")
bias = biases.dimshuffle("x", 0, "x", "x")
inputs = [images, filters, biases]
WHOLE = [random.integers(-1, 2, shape).astype("float64") for shape in [(3, 2, 11, 10), (4, 2, 3, 3), (4,)]]
"""Whole numbers, of which many biased maps are exactly zero."""


def averaged(x, size=3, **options):
    settings = {"ignore_border": True, "stride": 2, "pad": 1, "mode": "average_inc_pad"} | options
    return pool_2d(x, size, **settings)


def with_gradients(pooled, *wrt):
    return [pooled, *pytensor.grad((pooled**2).sum(), list(wrt))]


def rectifiers(function):
    return [op for op in operations(function) if isinstance(getattr(op, "scalar_op", None), Maximum | EQ | GE)]


POOLED = {
    "overlapping": lambda x: averaged(x),
    "plain": lambda x: averaged(x, 2, pad=0),
    "partial": lambda x: averaged(x, (2, 3), pad=(1, 0), ignore_border=False, mode="average_exc_pad"),
    "sum": lambda x: averaged(x, 3, mode="sum"),
    "symbolic": lambda x: averaged(x, (3 + 0 * x.shape[0], 3)),
}


@pytest.mark.parametrize("name", POOLED)
def test_values_and_gradients_stay(name):
    pooled = POOLED[name](pt.maximum(conv2d(images, filters) + bias, 0))
    rewritten, plain = check(NAME, inputs, with_gradients(pooled, *inputs), WHOLE, mode=FUSING)
    assert [count(rewritten, op) for op in (*FUSED, *UNFUSED)] == [1, 1, 0, 0]
    assert [count(plain, op) for op in (*FUSED, *UNFUSED)] == [0, 0, 1, 1]
    assert not rectifiers(rewritten)
    assert count(rewritten, Sum) == count(plain, Sum) - 1


def test_forward_alone_is_fused():
    pooled = averaged(pt.maximum(0, conv2d(images, filters) + bias))
    rewritten, _ = check(NAME, inputs, [pooled], WHOLE, mode=FUSING)
    assert [count(rewritten, op) for op in (*FUSED, *UNFUSED)] == [1, 0, 0, 0]


def test_without_biases():
    pooled = averaged(pt.maximum(conv2d(images, filters), 0))
    rewritten, _ = check(NAME, inputs[:2], with_gradients(pooled, *inputs[:2]), WHOLE[:2], mode=FUSING)
    assert [count(rewritten, op) for op in FUSED] == [1, 1]


@pytest.mark.parametrize(
    "added",
    [
        pytest.param(lambda: (biases, biases.dimshuffle("x", "x", 0, "x"), (9,)), id="for each row"),
        pytest.param(lambda: (one := pt.dvector(shape=(1,)), one.dimshuffle("x", 0, "x", "x"), (1,)), id="one for all"),
        pytest.param(lambda: (scalar := pt.dscalar(), scalar, ()), id="scalar"),
    ],
)
def test_what_is_no_number_for_each_channel_is_added_beforehand(added):
    variable, shift, shape = added()
    pooled = averaged(pt.maximum(conv2d(images, filters) + shift, 0))
    tensors, values = [images, filters, variable], [*WHOLE[:2], np.full(shape, 0.5)]
    rewritten, _ = check(NAME, tensors, with_gradients(pooled, *tensors), values, mode=FUSING)
    assert [count(rewritten, op) for op in FUSED] == [1, 1]
    assert not rectifiers(rewritten)


def test_a_product_of_the_gradient_with_more_factors():
    scaled = pt.exp(images / 4)
    pooled = averaged(pt.maximum(scaled + biases[:2].dimshuffle("x", 0, "x", "x") - 1, 0))
    tensors = [images, biases]
    rewritten, _ = check(NAME, tensors, with_gradients(pooled, *tensors), [WHOLE[0], WHOLE[2]], mode=FUSING)
    assert [count(rewritten, op) for op in FUSED] == [1, 1]


def test_float32_stays_float32():
    tensors = [x.astype("float32").type() for x in inputs]
    pooled = averaged(pt.maximum(conv2d(*tensors[:2]) + tensors[2].dimshuffle("x", 0, "x", "x"), 0))
    values = [value.astype("float32") for value in WHOLE]
    rewritten, _ = check(NAME, tensors, with_gradients(pooled, *tensors), values, mode=FUSING, tolerance=1e-4)
    assert [count(rewritten, op) for op in FUSED] == [1, 1]


def test_biases_of_another_dtype_are_added_beforehand():
    shift = pt.fvector("shift")
    pooled = averaged(pt.maximum(conv2d(images, filters) + shift.dimshuffle("x", 0, "x", "x"), 0))
    tensors, values = [images, filters, shift], [*WHOLE[:2], WHOLE[2].astype("float32")]
    check(NAME, tensors, with_gradients(pooled, *tensors), values, mode=FUSING)


def test_an_empty_batch():
    pooled = averaged(pt.maximum(conv2d(images, filters) + bias, 0))
    function = compiled(inputs, with_gradients(pooled, *inputs), mode=FUSING)
    maps, images_grad, _, biases_grad = function(WHOLE[0][:0], *WHOLE[1:])
    assert (maps.shape, images_grad.shape) == ((0, 4, 5, 4), (0, 2, 11, 10))
    np.testing.assert_array_equal(biases_grad, np.zeros(4))


OTHERS_READ = {
    "the biased maps": lambda x: [averaged(pt.maximum(x, 0)), pt.tanh(x)],
    "the rectified maps": lambda x: [averaged(pt.maximum(x, 0)), pt.tanh(pt.maximum(x, 0))],
    "two pools": lambda x: [averaged(pt.maximum(x, 0)), averaged(pt.maximum(x, 0), 2, pad=0)],
    "an output": lambda x: [averaged(pt.maximum(x, 0)), x],
}


@pytest.mark.parametrize("name", OTHERS_READ)
def test_maps_that_others_read_are_not_fused(name):
    outputs = OTHERS_READ[name](conv2d(images, filters) + bias)
    gradients = pytensor.grad(sum((y**2).sum() for y in outputs), inputs)
    function, plain = (compiled(inputs, [*outputs, *gradients], mode=mode) for mode in (FUSING, PYTHON))
    assert not any(count(function, op) for op in FUSED)
    for ours, other in zip(function(*WHOLE), plain(*WHOLE), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-10)


OTHER_SIGNS = {
    "the sign alone": lambda x, pooled: [pt.ge(x, 0)],
    "another product": lambda x, pooled: [pt.ge(x, 0) * pt.exp(images[:, 0, :9, :8].dimshuffle(0, "x", 1, 2))],
    "another gradient": lambda x, pooled: [pytensor.grad(averaged(pt.maximum(x, 0), 2, pad=0).sum(), x)],
    "the spread maps": lambda x, pooled: [AveragePool2dGrad("average_inc_pad")(
        2 * pooled, x.shape[2], x.shape[3], (3, 3), (2, 2), ((1, 1), (1, 1)))],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SIGNS)
def test_signs_and_gradients_that_others_read_are_not_fused(name):
    x = conv2d(images, filters) + bias
    pooled = averaged(pt.maximum(x, 0))
    outputs = [*with_gradients(pooled, *inputs), *OTHER_SIGNS[name](x, pooled)]
    function, plain = (compiled(inputs, outputs, mode=mode) for mode in (FUSING, PYTHON))
    assert not any(count(function, op) for op in FUSED)
    for ours, other in zip(function(*WHOLE), plain(*WHOLE), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-10)


@pytest.mark.parametrize(
    "rectified", [lambda x: pt.maximum(x, 1), pt.tanh, lambda x: pt.maximum(x, bias)], ids=["one", "tanh", "bias"]
)
def test_other_functions_are_not_fused(rectified):
    function = compiled(inputs, averaged(rectified(conv2d(images, filters) + bias)), mode=FUSING)
    assert not any(count(function, op) for op in FUSED)


def test_other_linkers_do_not():
    pooled = averaged(pt.maximum(conv2d(images, filters) + bias, 0))
    assert count(compiled(inputs, pooled), RectifiedAveragePool2d) == 0


def test_a_layer_in_c01b_is_fused():
    shuffled = FilterActs(1)(images.dimshuffle(1, 2, 3, 0), filters.dimshuffle(1, 2, 3, 0))
    biased = shuffled + biases.dimshuffle(0, "x", "x", "x")
    pooled = averaged(pt.maximum(biased, 0).dimshuffle(3, 0, 1, 2))
    rewritten, _ = check(NAME, inputs, with_gradients(pooled, *inputs), WHOLE, mode=FUSING)
    assert [count(rewritten, op) for op in (*FUSED, *UNFUSED)] == [1, 1, 0, 0]
    assert not rectifiers(rewritten)


def test_a_training_step_of_cuda_convnet():
    x, y = pt.tensor("x", dtype="float32", shape=(None, 3, 16, 16)), pt.ivector("y")
    network = CudaConvnet(np.random.default_rng(0), image_shape=(3, 16, 16), number_of_classes=10)
    loss = -pt.log(network.probabilities(x)[pt.arange(y.shape[0]), y]).mean()
    outputs = [loss, *pytensor.grad(loss, list(network.parameters.values()))]
    arrays = [random.standard_normal((17, 3, 16, 16)).astype("float32"), np.arange(17, dtype="int32") % 10]
    function = pytensor.function([x, y], outputs, mode="NUMBA")
    assert [count(function, op) for op in (*FUSED, *UNFUSED)] == [3, 3, 0, 0]
    plain = pytensor.function([x, y], outputs, mode=PYTHON.excluding("convnet"))
    for ours, other in zip(function(*arrays), plain(*arrays), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4)


LAYERS = {
    "bias": lambda maps: pt.maximum(maps + bias, 0),
    "no bias": lambda maps: pt.maximum(maps, 0),
    "pooled": lambda maps: max_pool_2d(pt.maximum(maps + bias, 0), 2),
    "scaled": lambda maps: pt.maximum(pt.exp(maps / 4) + bias - 1, 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_rectifier_without_an_average_pool(name):
    tensors = inputs[:2] if name == "no bias" else inputs
    outputs = with_gradients(LAYERS[name](conv2d(images, filters)), *tensors)
    rewritten, plain = check(ALONE, tensors, outputs, WHOLE[: len(tensors)], mode=WITHOUT_POOLS)
    assert count(rewritten, RectifiedAveragePool2d) == 1
    assert count(rewritten, RectifiedAveragePool2dGrad) >= 1  # one for each product with a gradient
    assert not rectifiers(rewritten)
    assert rectifiers(plain)


def test_a_rectifier_whose_gradient_is_a_function_of_its_value_alone():
    rectified = pt.maximum(conv2d(images, filters) + bias, 0)
    outputs = pytensor.grad((rectified**2).sum() / 2, inputs)
    rewritten, _ = check(ALONE, inputs, outputs, WHOLE, mode=WITHOUT_POOLS)
    assert [count(rewritten, op) for op in FUSED] == [1, 1]
    assert not rectifiers(rewritten)


def test_average_pools_and_max_pools_take_their_rectifiers_first():
    maps = conv2d(images, filters)
    for rectified in (averaged(pt.maximum(maps + bias, 0)), max_pool_2d(pt.maximum(maps + bias, 0), 2)):
        function = pytensor.function(inputs, rectified, mode="NUMBA")
        assert RectifiedAveragePool2d("sum") not in operations(function)
        assert not rectifiers(function)


NOT_ALONE = {
    "of no maps": lambda: pt.maximum(images, 0),
    "of a vector": lambda: pt.maximum(conv2d(images, filters).sum(axis=(0, 2, 3)), 0),
    "another bound": lambda: pt.maximum(conv2d(images, filters), 1),
    "read before": lambda: pt.maximum(conv2d(images, filters), 0) * conv2d(images, filters),
}


@pytest.mark.parametrize("name", NOT_ALONE)
def test_other_rectifiers_stay(name):
    outputs = with_gradients(NOT_ALONE[name](), images)
    function, plain = (compiled(inputs, outputs, mode=mode) for mode in (WITHOUT_POOLS, PYTHON))
    assert not any(count(function, op) for op in FUSED)
    for ours, other in zip(function(*WHOLE), plain(*WHOLE), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-10)


@pytest.mark.parametrize("cost", [lambda y: y.sum(), lambda y: (y * pt.exp(y)).mean()], ids=["one for all", "product"])
def test_gradients_of_a_rectifier_that_are_one_number_or_products(cost):
    outputs = pytensor.grad(cost(pt.maximum(conv2d(images, filters) + bias, 0)), inputs)
    function, plain = (compiled(inputs, outputs, mode=mode) for mode in (WITHOUT_POOLS, PYTHON))
    for ours, other in zip(function(*WHOLE), plain(*WHOLE), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-10)
