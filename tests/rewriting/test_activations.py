"""Tanh of maps, and of the layers after them, is computed in vectors."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.ops.activations import RationalTanh, rational_tanh
from tests.rewriting.common import operations

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
