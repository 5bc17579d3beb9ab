"""Shuffles of axes cancel across activations, biases and their derivatives; values and gradients stay."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.tensor.elemwise import DimShuffle

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.cuda_convnet import CrossMapNorm, FilterActs, MaxPool
from pytensor_convnet.ops import CorrelateMaxPool2d
from pytensor_convnet.rewriting.layouts import inverse, nearest_shuffle, permutation
from tests.rewriting.common import FUSING, check, compiled, count

NAME = "cancel_shuffles"
random = np.random.default_rng(0)
images = pt.tensor("images", dtype="float64", shape=(3, 9, 8, 2))
filters = pt.tensor("filters", dtype="float64", shape=(3, 3, 3, 4))
biases = pt.tensor("biases", dtype="float64", shape=(4,))
bias = biases.dimshuffle(0, "x", "x", "x")
INPUTS = [images, filters, biases]
VALUES = [random.standard_normal(x.type.shape) for x in INPUTS]

LAYERS = {
    "bias-relu": lambda maps: pt.maximum(maps + bias, 0),
    "tanh": lambda maps: pt.tanh(maps + bias),
    "leaky": lambda maps: pt.maximum(maps + bias, 0.1 * (maps + bias)),
    "clipped": lambda maps: pt.clip(maps + bias, -1, 1),
    "normalised": lambda maps: CrossMapNorm(3, 0.1, 0.75, False)(pt.maximum(maps + bias, 0))[0],
}


def shuffles(function):
    """How axes are shuffled in a compiled function, where none is added or dropped."""
    nodes = function.maker.fgraph.toposort()
    return [order for order in map(permutation, nodes) if order is not None]


def network(activation):
    pooled = MaxPool(3, 2)(LAYERS[activation](FilterActs(1)(images, filters)))
    return [pooled.sum(), *pytensor.grad((pooled**2).sum(), INPUTS)]


@pytest.mark.parametrize("activation", LAYERS)
def test_values_and_gradients_stay_and_shuffles_are_left_at_the_ends_only(activation):
    rewritten, plain = check(NAME, INPUTS, network(activation), VALUES)
    assert sorted(shuffles(rewritten)) == [(1, 2, 3, 0)] * 2 + [(3, 0, 1, 2)] * 2  # images, filters and their gradients
    assert len(shuffles(plain)) > 4


def test_a_layer_in_c01b_becomes_the_same_graph_as_in_bc01():
    def names(outputs, inputs):
        function = compiled(inputs, outputs, mode=FUSING)
        nodes = [node for node in function.maker.fgraph.toposort() if permutation(node) is None]
        return sorted(str(node.op) for node in nodes if "Shape_i" not in str(node.op))

    c01b = MaxPool(3, 2)(pt.tanh(FilterActs(1)(images, filters) + bias))
    x, w = pt.tensor("x", dtype="float64", shape=(2, 3, 9, 8)), pt.tensor("w", dtype="float64", shape=(4, 3, 3, 3))
    bc01 = pt.tanh(conv2d(x, w, border_mode=1, filter_flip=False) + biases.dimshuffle("x", 0, "x", "x"))
    bc01 = max_pool_2d(bc01, 3, False, 2)
    ours = names([c01b.sum(), *pytensor.grad((c01b**2).sum(), INPUTS)], INPUTS)
    assert ours == names([bc01.sum(), *pytensor.grad((bc01**2).sum(), [x, w, biases])], [x, w, biases])


def test_convolution_and_pooling_in_c01b_are_fused():
    pooled = MaxPool(3, 2)(pt.maximum(FilterActs(1)(images, filters) + bias, 0))
    outputs = [pooled, *pytensor.grad((pooled**2).sum(), INPUTS)]
    function = compiled(INPUTS, outputs, mode=FUSING)
    assert count(function, CorrelateMaxPool2d) == 1


@pytest.mark.parametrize("axes", [(1, 2, 3), None, (0,), (1, 2), (0, 3), (3,)])
@pytest.mark.parametrize("reduction", [pt.sum, pt.max])
def test_reductions_are_done_before_the_shuffle(axes, reduction):
    x = pt.tensor("x", dtype="float64", shape=(2, 3, 4, 5))
    reduced = reduction(x.dimshuffle(1, 2, 3, 0) ** 2, axis=axes)
    value = random.standard_normal((2, 3, 4, 5))
    rewritten, _ = check("reduce_before_shuffle", [x], [reduced], [value])
    np.testing.assert_allclose(rewritten(value)[0], getattr(value.transpose(1, 2, 3, 0) ** 2, reduction.__name__)(axes))
    assert not any(len(order) == 4 for order in shuffles(rewritten))


def test_what_was_not_shuffled_is_looked_at_through_a_view():
    x = pt.tensor("x", dtype="float64", shape=(2, 3, 4, 5))
    y = pt.tensor("y", dtype="float64", shape=(3, 4, 5, 2))
    mixed = (x.dimshuffle(1, 2, 3, 0) + y).dimshuffle(3, 0, 1, 2)
    arrays = [random.standard_normal(v.type.shape) for v in (x, y)]
    function = compiled([x, y], mixed)
    np.testing.assert_allclose(function(*arrays), arrays[0] + arrays[1].transpose(3, 0, 1, 2))
    assert shuffles(function) == [(3, 0, 1, 2)]


def test_a_reduction_of_two_that_lie_differently_moves_neither():
    x, y = (pt.tensor(name, dtype="float64", shape=shape) for name, shape in (("x", (2, 3, 4, 5)), ("y", (3, 4, 5, 2))))
    arrays = [random.standard_normal(v.type.shape) for v in (x, y)]
    for product in (x.dimshuffle(1, 2, 3, 0) * y, x * y.dimshuffle(3, 0, 1, 2)):
        function = compiled([x, y], product.sum())
        assert len(shuffles(function)) == 1
        np.testing.assert_allclose(function(*arrays), (arrays[0] * arrays[1].transpose(3, 0, 1, 2)).sum())


STAYING = {
    "never-shuffled": lambda x: pt.tanh(x).dimshuffle(3, 0, 1, 2),
    "other-order": lambda x: pt.tanh(x.dimshuffle(1, 2, 3, 0)).dimshuffle(1, 2, 3, 0),
    "no-elementwise": lambda x: pt.cumsum(x.dimshuffle(1, 2, 3, 0), axis=0).dimshuffle(3, 0, 1, 2),
}


@pytest.mark.parametrize("name", STAYING)
def test_other_shuffles_stay(name):
    x = pt.tensor("x", dtype="float64", shape=(2, 3, 4, 5))
    y = STAYING[name](x)
    value = random.standard_normal((2, 3, 4, 5))
    function = compiled([x], [y, y.owner.inputs[0]])
    assert shuffles(function)
    np.testing.assert_array_equal(function(value)[0], compiled([x], y, NAME)(value))


def test_orders_have_inverses():
    x = pt.tensor4("x")
    assert inverse((1, 2, 3, 0)) == (3, 0, 1, 2)
    assert permutation(x.dimshuffle(3, 0, 1, 2).owner) == (3, 0, 1, 2)
    assert permutation(x.dimshuffle("x", 0, 1, 2, 3).owner) is None
    assert permutation(pt.tanh(x).owner) is None
    assert permutation(None) is None
    assert DimShuffle is type(x.dimshuffle(3, 0, 1, 2).owner.op)


def test_a_sum_with_something_in_the_other_layout_stays_where_it_is():
    """Moved, it would have as many shuffles, and be moved again."""
    weights = pt.tensor("weights", dtype="float64", shape=(4, 9, 8, 2))
    weighted = (FilterActs(1)(images, filters) * weights).sum()
    arrays = [*VALUES[:2], random.standard_normal(weights.type.shape)]
    function = compiled([images, filters, weights], weighted)
    plain = compiled([images, filters, weights], weighted, "reduce_before_shuffle")
    assert len(shuffles(function)) == len(shuffles(plain)) == 3
    np.testing.assert_allclose(function(*arrays), plain(*arrays), rtol=1e-12)


def test_functions_of_functions_are_looked_through_once():
    x = images.dimshuffle(3, 0, 1, 2)
    for _ in range(40):
        x = pt.sqrt(x * x + x)
    assert nearest_shuffle(x) == (3, 0, 1, 2)
