"""The Ops that rewrites make of matrix products and transposes: values and shapes."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet.ops.products import kept_dot, ordered_transpose
from tests.ops.common import PYTHON


def test_a_kept_product_is_a_product():
    x, y = pt.matrices("x", "y")
    values = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    product = kept_dot(x, y)
    actual, shape = pytensor.function([x, y], [product, product.shape], mode=PYTHON)(*values)
    np.testing.assert_array_equal(actual, values[0] @ values[1])
    assert shape.tolist() == [2, 4]


def test_an_ordered_transpose_is_a_transpose_of_the_same_memory():
    x = pt.matrix("x")
    value = np.arange(6.0).reshape(2, 3)
    function = pytensor.function(
        [pytensor.In(x, borrow=True)], pytensor.Out(ordered_transpose(x), borrow=True), mode=PYTHON
    )
    transpose = function(value)
    np.testing.assert_array_equal(transpose, value.T)
    assert np.shares_memory(transpose, value)


@pytest.mark.parametrize("shape", [(2, 3), (None, 3), (None, None)])
def test_an_ordered_transpose_has_the_lengths_turned(shape):
    x = pt.tensor("x", shape=shape, dtype="float32")
    transpose = ordered_transpose(x)
    assert transpose.type.shape == shape[::-1]
    assert transpose.type.dtype == "float32"
    lengths = pytensor.function([x], transpose.shape, mode=PYTHON)
    assert lengths(np.zeros((2, 3), "float32")).tolist() == [3, 2]
