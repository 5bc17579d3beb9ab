"""What multiplies, adds or sums scattered gradients is done before they are scattered."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import max_pool_2d
from pytensor_convnet.ops import MaxPool2d, MaxPool2dGrad
from tests.rewriting.common import check, compiled, count, elementwise_rows

random = np.random.default_rng(0)
WINDOWS = (3, 2), (2, 2), ((1, 1), (0, 0))
images = pt.tensor("images", dtype="float64", shape=(2, 3, 9, 8))
maps = pt.tensor("maps", dtype="float64", shape=(2, 3, 5, 4))
scale = pt.tensor("scale", dtype="float64", shape=(3,)).dimshuffle("x", 0, "x", "x")
inputs = [images, maps, scale.owner.inputs[0]]
values = [random.standard_normal(shape) for shape in [(2, 3, 9, 8), (2, 3, 5, 4), (3,)]]


def scattered(upon=maps, windows=WINDOWS):
    _, winners = MaxPool2d()(images, *WINDOWS)
    return MaxPool2dGrad()(winners, upon, 9, 8, *windows)


PRODUCTS = {
    "of-images": lambda g: g * pt.exp(images),
    "of-a-scale": lambda g: scale * g,
    "of-both": lambda g: g * scale * (1 - pt.tanh(images + scale) ** 2),
    "quotient": lambda g: g / (1 + images**2),
    "negation": lambda g: -g,
    "chosen": lambda g: pt.switch(images > 0, g, 0),
    "chosen-else": lambda g: pt.switch(images > scale, 0, g),
    "chosen-of-two": lambda g: pt.switch(images > 0, g, scattered(2 * maps)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_move(name):
    outputs = [PRODUCTS[name](scattered())]
    rewritten, _ = check("move_product_before_max_pool_grad", inputs, outputs, values)
    assert 9 not in elementwise_rows(rewritten)
    assert isinstance(rewritten.maker.fgraph.outputs[0].owner.op, MaxPool2dGrad)


more = images.type("more")
OTHERS = {
    "not-of-images": lambda g: g * images[:, ::-1],
    "of-other-images": lambda g: g * pt.tanh(more + images),
    "not-linear": lambda g: pt.exp(g),
    "chosen-else-images": lambda g: pt.switch(images > 0, g, images),
    "a-divisor": lambda g: images / g,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_stay(name):
    product = OTHERS[name](scattered())
    assert elementwise_rows(compiled([*inputs, more], product)) == {9}


def test_products_stay_where_the_winners_are_of_other_windows():
    _, winners = MaxPool2d()(images, (2, 2), (2, 2), ((0, 0), (0, 0)))
    g = MaxPool2dGrad()(winners, maps[:, :, :4], 9, 8, (2, 2), (2, 2), ((0, 0), (0, 0)))
    assert elementwise_rows(compiled(inputs, g * images)) == {4}
    g = MaxPool2dGrad()(winners, maps[:, :, :4], 9, 8, (3, 2), (2, 2), ((0, 0), (0, 0)))
    assert elementwise_rows(compiled(inputs, g * images)) == {9}


def test_sums_are_scattered_once():
    name = "add_before_max_pool_grad"
    for total in (scattered() + scattered(maps**2), scattered() - scattered(maps**2)):
        rewritten, plain = check(name, inputs, [total], values)
        assert (count(rewritten, MaxPool2dGrad), count(plain, MaxPool2dGrad)) == (1, 2)
    rewritten, _ = check(name, inputs, [scattered() + images + scattered(maps**2)], values)
    assert count(rewritten, MaxPool2dGrad) == 1


def test_sums_with_others_stay():
    other = MaxPool2dGrad()(MaxPool2d()(images**2, *WINDOWS)[1], maps, 9, 8, *WINDOWS)
    for total in (scattered() + images, scattered() + other, scattered() - images):
        assert 9 in elementwise_rows(compiled(inputs, total))


@pytest.mark.parametrize("axis", [(2, 3), (0, 2, 3), None, (1, 2, 3)])
def test_sums_over_planes_need_no_scattering(axis):
    rewritten, plain = check("sum_before_max_pool_grad", inputs, [scattered().sum(axis)], values)
    assert (count(rewritten, MaxPool2dGrad), count(plain, MaxPool2dGrad)) == (0, 1)


@pytest.mark.parametrize("axis", [(0, 1), 2, (0, 3)])
def test_sums_within_planes_need_it(axis):
    assert count(compiled(inputs, scattered().sum(axis)), MaxPool2dGrad) == 1


def test_the_gradient_of_a_bias_before_a_pool_never_reaches_full_resolution():
    bias = pt.tensor("bias", dtype="float64", shape=(3,))
    pooled = max_pool_2d(pt.tanh(images + bias.dimshuffle("x", 0, "x", "x")), 2, True)
    gradient = pytensor.grad((pooled**2).sum(), bias)
    function = compiled([images, bias], gradient)
    assert elementwise_rows(function) == {4}
    assert count(function, MaxPool2dGrad) == 0
