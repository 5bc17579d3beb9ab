"""Tanh of maps, and of the layers after them, is computed in vectors."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.tensor.math import Sum

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.ops import TanhGrad
from pytensor_convnet.ops.activations import RationalTanh, rational_tanh
from tests.rewriting.common import count, operations

images = pt.tensor4("images", dtype="float32")
filters = pt.tensor4("filters", dtype="float32")
random = np.random.default_rng(0)
VALUES = [random.standard_normal(shape).astype("float32") for shape in ((20, 2, 9, 8), (3, 2, 3, 2))]


def compiled(inputs, outputs, *excluded):
    mode = pytensor.compile.get_mode("NUMBA").excluding("elemwise_fusion", "inplace", *excluded)
    return pytensor.function(inputs, outputs, mode=mode)


def uses_it(function):
    return any(isinstance(getattr(op, "scalar_op", None), RationalTanh) for op in operations(function))


def test_it_is_within_a_few_units_in_the_last_place():
    x = np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-30, 1, 10_001)]).astype("float32")
    v = pt.vector("v", dtype="float32")
    actual = pytensor.function([v], pt.elemwise.Elemwise(rational_tanh)(v), mode="NUMBA")(x)
    expected = np.tanh(x.astype("float64"))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=4e-7, atol=0)


@pytest.mark.parametrize(("x", "y"), [(np.inf, 1), (-np.inf, -1), (np.nan, np.nan), (0, 0)])
def test_it_knows_what_is_not_finite(x, y):
    v = pt.vector("v", dtype="float32")
    actual = pytensor.function([v], pt.elemwise.Elemwise(rational_tanh)(v), mode="NUMBA")(np.array([x], "float32"))
    np.testing.assert_allclose(actual, np.array([y], "float32"), rtol=1e-6)


@pytest.mark.parametrize("pooled", [True, False])
def test_values_and_gradients_stay(pooled):
    maps = conv2d(images, filters)
    outputs = pt.tanh((max_pool_2d(maps, (2, 2), True) if pooled else maps) + 1)
    graph = [outputs, pytensor.grad(outputs.sum(), filters)]
    rewritten = compiled([images, filters], graph)
    plain = compiled([images, filters], graph, "vectorize_tanh")
    assert uses_it(rewritten)
    assert not uses_it(plain)
    for a, b in zip(rewritten(*VALUES), plain(*VALUES)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_layers_after_maps_count():
    w = pt.matrix("w", dtype="float32")
    hidden = pt.tanh(conv2d(images, filters).flatten(2) @ w)
    assert uses_it(compiled([images, filters, w], hidden))


def test_a_tanh_of_something_else_is_left_alone():
    x = pt.matrix("x", dtype="float32")
    assert not uses_it(compiled([x], [pt.tanh(x @ x)]))


def test_float64_is_left_alone():
    x, w = pt.tensor4("x", dtype="float64"), pt.tensor4("w", dtype="float64")
    assert not uses_it(compiled([x, w], [pt.tanh(conv2d(x, w))]))


# ------------------------------------------------------------------------------ gradients of maps and biases

GRADS = "fuse_tanh_grad_and_bias_grad"
biases = pt.vector("biases", dtype="float32")
biased = conv2d(images, filters) + biases.dimshuffle("x", 0, "x", "x")
gradient = pt.tensor4("gradient", dtype="float32")
inputs = [images, filters, biases, gradient]


def with_gradients(tanhs):
    """The gradients for filters and biases, given that for ``tanhs``."""
    return pytensor.grad(None, [filters, biases], known_grads={tanhs: gradient})


@pytest.mark.parametrize("pooled", [True, False])
def test_the_gradients_of_maps_and_of_biases_are_one_step(pooled):
    tanhs = pt.tanh(max_pool_2d(biased, (2, 2), True) if pooled else biased)
    outputs = with_gradients(tanhs)
    rewritten, plain = compiled(inputs, outputs), compiled(inputs, outputs, GRADS)
    assert [count(function, TanhGrad) for function in (rewritten, plain)] == [1, 0]
    assert count(rewritten, Sum) == 0
    shape = (20, 3, 3, 3) if pooled else (20, 3, 7, 7)
    values = [*VALUES, *(random.standard_normal(n).astype("float32") for n in (3, shape))]
    for a, b in zip(rewritten(*values), plain(*values)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def slope(tanhs):
    return 1 - tanhs**2


def product_and_sum(product, axis=(0, 2, 3)):
    return [product, product.sum(axis=axis)]


OTHERS = {
    "no biases": lambda: pytensor.grad((pt.tanh(conv2d(images, filters)) ** 2).sum(), [images, filters]),
    "of no maps": lambda: product_and_sum(gradient * slope(pt.tanh(images))),
    "the sum alone": lambda: [(gradient * slope(pt.tanh(biased))).sum(axis=(0, 2, 3))],
    "another sum": lambda: product_and_sum(gradient * slope(pt.tanh(biased)), (0, 2)),
    "another slope": lambda: product_and_sum(gradient * (1 + slope(pt.tanh(biased)))),
    "one number for all": lambda: pytensor.grad(pt.tanh(biased).sum(), [filters, biases]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_and_sums_stay(name):
    mode = pytensor.compile.get_mode("NUMBA").excluding("elemwise_fusion", "inplace")
    function = pytensor.function(inputs, OTHERS[name](), mode=mode, on_unused_input="ignore")
    assert count(function, TanhGrad) == 0
