"""Functions that never decrease move past max pooling: values and gradients stay, the work shrinks."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.ops import MaxPool2d
from pytensor_convnet.rewriting.max_pools import argument
from tests.rewriting.common import check, compiled, elementwise_rows
from tests.rewriting.test_slopes import RISING

NAME = "move_function_past_max_pool"
random = np.random.default_rng(0)
images = pt.tensor("images", dtype="float64", shape=(2, 3, 9, 8))
biases = pt.tensor("biases", dtype="float64", shape=(3,))
bias = biases.dimshuffle("x", 0, "x", "x")
values = random.standard_normal((2, 3, 9, 8)), random.standard_normal(3)

FUNCTIONS = {name: function for name, function in RISING.items() if name not in ("minimum", "half-of-sum", "chain")}
FUNCTIONS |= {
    "bias-tanh": lambda x: pt.tanh(x + bias),
    "half-of-sum": lambda x: 0.5 * (x + bias + abs(x + bias)),
    "chain": lambda x: pt.tanh(2 * pt.maximum(x + bias, 0) - 1),
}
del FUNCTIONS["bias"], FUNCTIONS["minus-bias"]

WINDOWS = [
    pytest.param((2, True, None, 0), id="plain"),
    pytest.param(((3, 2), True, (2, 1), (1, 1)), id="overlapping-padded"),
    pytest.param(((3, 3), False, (2, 3), ((1, 0), (1, 1))), id="partial"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_stay(name):
    pooled = max_pool_2d(FUNCTIONS[name](images), 2, True)
    gradients = pytensor.grad((pooled**2).sum(), [images, biases], disconnected_inputs="ignore")
    rewritten, plain = check(NAME, [images, biases], [pooled, *gradients], values)
    assert elementwise_rows(rewritten) == {4}
    assert 9 in elementwise_rows(plain)


@pytest.mark.parametrize("windows", WINDOWS)
def test_values_and_gradients_stay_for_every_window(windows):
    pooled = max_pool_2d(pt.sigmoid(images + bias), *windows)
    gradients = pytensor.grad((pooled**2).sum(), [images, biases])
    rewritten, _ = check(NAME, [images, biases], [pooled, *gradients], values)
    assert 9 not in elementwise_rows(rewritten)


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "float64")])
def test_dtypes_stay(dtypes):
    x, b = (pt.tensor(dtype=dtype, shape=shape) for dtype, shape in zip(dtypes, [(2, 3, 8, 8), (3,)]))
    pooled = max_pool_2d(pt.tanh(x + b.dimshuffle("x", 0, "x", "x")), 2)
    outputs = [pooled, *pytensor.grad(pooled.sum(), [x, b])]
    check(NAME, [x, b], outputs, [np.ones((2, 3, 8, 8), dtypes[0]), np.ones(3, dtypes[1])], tolerance=1e-5)


@pytest.mark.parametrize("name", ["tanh", "maximum", "softplus", "leaky", "clip"])
def test_nan_still_wins_and_so_do_infinities(name):
    value = np.array([[[[1.0, np.nan, -np.inf, -np.inf, np.inf, 0.0], [5.0, np.inf, -np.inf, -np.inf, 1.0, 2.0]]]])
    x = pt.tensor("x", dtype="float64", shape=(1, 1, 2, 6))
    [maxima], [other] = (
        f(value) for f in check(NAME, [x], [max_pool_2d(FUNCTIONS[name](x), 2)], [np.ones((1, 1, 2, 6))])
    )
    np.testing.assert_array_equal(maxima, other)
    assert np.isnan(maxima[0, 0, 0, 0])
    assert not np.isnan(maxima[0, 0, 0, 1:]).any()


def test_a_gradient_goes_to_the_pixel_that_is_greatest_before_it_saturates():
    x = pt.tensor("x", dtype="float32", shape=(1, 1, 1, 2))
    gradient = pytensor.grad(max_pool_2d(x + np.float32(2.0**25), (1, 2)).sum(), x)
    value = np.array([[[[1, 2]]]], "float32")  # of which the sums are equal
    np.testing.assert_array_equal(compiled([x], gradient)(value), [[[[0, 1]]]])
    np.testing.assert_array_equal(compiled([x], gradient, NAME)(value), [[[[1, 0]]]])


def test_functions_move_as_far_as_they_can():
    y = pt.tensor4("y", dtype="float64")
    inner = images + y
    assert argument(pt.tanh(inner + bias)) is inner
    assert argument(pt.tanh(pt.sin(images))).owner.op == pt.sin
    assert argument(inner) is None
    assert argument(images) is None
    narrow = pt.tensor("narrow", dtype="float64", shape=(None, 3, 1, 8))
    assert argument(narrow + images) is None


STAYING = {
    "falling": lambda x: -x,
    "unknown": pt.sin,
    "pixelwise": lambda x: x + x[:, ::-1],
    "pixelwise-constant": lambda x: x * np.linspace(1, 2, 72).reshape(1, 1, 9, 8),
    "rounded": lambda x: pt.tanh(x).astype("int32"),
}


@pytest.mark.parametrize("name", STAYING)
def test_other_functions_stay(name):
    pooled = max_pool_2d(STAYING[name](images), 2, True)
    function = compiled([images], pooled)
    assert 4 not in elementwise_rows(function)
    np.testing.assert_array_equal(function(values[0]), compiled([images], pooled, "convnet")(values[0]))


def test_who_asks_for_winners_gets_those_of_the_function():
    value = np.array([[[[-2.0, -1.0]]]])  # both are zero for a rectifier, and the first wins
    x = pt.tensor("x", dtype="float64", shape=(1, 1, 1, 2))
    maxima, winners = MaxPool2d()(pt.maximum(x, 0), (1, 2), (1, 2), ((0, 0), (0, 0)))
    assert compiled([x], [maxima, winners])(value)[1].item() == 0


def test_symbolic_windows_are_no_obstacle():
    size = pt.lscalar("size")
    pooled = max_pool_2d(pt.tanh(images), (size, size))
    outputs = [pooled, pytensor.grad(pooled.sum(), images)]
    rewritten, plain = check(NAME, [images, size], outputs, [values[0], 3])
    assert 9 not in elementwise_rows(rewritten)
    assert 9 in elementwise_rows(plain)


def test_unknown_shapes_are_no_obstacle():
    x, w, b = pt.tensor4("x", dtype="float64"), pt.tensor4("w", dtype="float64"), pt.vector("b", dtype="float64")
    pooled = max_pool_2d(pt.tanh(conv2d(x, w) + b.dimshuffle("x", 0, "x", "x")), 2)
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), [x, w, b])]
    arrays = [random.standard_normal(shape) for shape in [(2, 3, 9, 8), (4, 3, 3, 3), (4,)]]
    check(NAME, [x, w, b], outputs, arrays)
