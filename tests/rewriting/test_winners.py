"""Winners that nobody reads are not computed."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import pool_2d
from pytensor_convnet.ops import MaxPool2d, MaxPool2dMaxima
from tests.ops.common import (
    check_infer_shape,
    check_pushforward,
    check_static_shapes,
    check_vectorized,
)
from tests.rewriting.common import check, compiled, count

NAME = "drop_unread_winners"
images = pt.tensor4("images", dtype="float64")
value = np.random.default_rng(0).permutation(2 * 3 * 9 * 8).reshape(2, 3, 9, 8) / 10.0
WINDOWS = (3, 2), (2, 1), ((1, 1), (0, 1))


@pytest.mark.parametrize("ignore_border", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_the_maxima_stay(dtype, ignore_border):
    x = pt.tensor4("x", dtype=dtype)
    outputs = [pool_2d(x, (3, 2), ignore_border, (2, 1), (1, 1))]
    rewritten, plain = check(NAME, [x], outputs, [value.astype(dtype)])
    assert (count(rewritten, MaxPool2d), count(rewritten, MaxPool2dMaxima)) == (0, 1)
    assert (count(plain, MaxPool2d), count(plain, MaxPool2dMaxima)) == (1, 0)


def test_a_gradient_reads_winners():
    pooled = pool_2d(images, 2)
    for outputs in (pytensor.grad(pooled.sum(), images), [pooled, pytensor.grad(pooled.sum(), images)]):
        function = compiled([images], outputs)
        assert (count(function, MaxPool2d), count(function, MaxPool2dMaxima)) == (1, 0)


def test_so_does_who_asks_for_them():
    function = compiled([images], MaxPool2d()(images, *WINDOWS)[1])
    assert (count(function, MaxPool2d), count(function, MaxPool2dMaxima)) == (1, 0)


def test_the_numba_backend_computes_the_same():
    pooled = pool_2d(images, (3, 2), True, (2, 1), (1, 1))
    function = pytensor.function([images], pooled, mode="NUMBA")
    assert count(function, MaxPool2dMaxima) == 1
    np.testing.assert_array_equal(function(value), compiled([images], pooled)(value))


@pytest.mark.parametrize("ignore_border", [True, False])
def test_the_op_keeps_what_every_op_promises(ignore_border):
    op = MaxPool2dMaxima(ignore_border)
    check_static_shapes(op, [value], WINDOWS)
    check_infer_shape(op, [value], WINDOWS)
    check_pushforward(op, [value], WINDOWS)
    check_vectorized(op, [value], WINDOWS)


def test_the_op_has_the_gradient_of_max_pooling():
    maxima = MaxPool2dMaxima()(images, *WINDOWS)
    gradient = compiled([images], pytensor.grad((maxima**2).sum(), images))
    other = compiled([images], pytensor.grad((MaxPool2d()(images, *WINDOWS)[0] ** 2).sum(), images))
    np.testing.assert_array_equal(gradient(value), other(value))
