"""Matrix products of the layers after maps copy no transpose, and are written to memory that earlier arrays left."""

import gc

import numba
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.link.numba.dispatch.basic import numba_funcify
from pytensor.tensor.math import Dot

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.kernels.cpu.kept_memory import kept_bytes, release_memory
from pytensor_convnet.ops.products import KeptDot, OrderedTranspose, ordered_transpose
from tests.rewriting.common import check, count

REWRITES = ("keep_memory_of_dot", "order_transposes")
NUMBA = pytensor.compile.get_mode("NUMBA")

random = np.random.default_rng(0)


def layer(dtype="float64"):
    """A dense layer after maps, with its gradients; three products, of which two read a transpose."""
    images, filters, weights = (pt.tensor(shape=(None,) * ndim, dtype=dtype) for ndim in (4, 4, 2))
    units = conv2d(images, filters).sum(axis=(2, 3)) @ weights
    outputs = [units, *pytensor.grad((units**2).sum(), [images, weights])]
    shapes = (5, 2, 6, 7), (3, 2, 3, 2), (3, 4)
    return [images, filters, weights], outputs, [random.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("name", REWRITES)
def test_values_and_gradients_stay(name):
    check(name, *layer(), mode=NUMBA)


def test_all_products_and_the_transposes_of_two_are_rewritten():
    inputs, outputs, _ = layer()
    function = pytensor.function(inputs, outputs, mode=NUMBA)
    assert [count(function, op) for op in (Dot, KeptDot, OrderedTranspose)] == [3, 3, 2]


def test_products_of_anything_else_are_left_alone():
    x, y = pt.matrices("x", "y")
    function = pytensor.function([x, y], x @ y.T, mode=NUMBA)
    assert count(function, KeptDot) == count(function, OrderedTranspose) == 0


def test_products_of_integers_are_left_alone():
    images, weights = pt.tensor4("images", dtype="int32"), pt.matrix("weights", dtype="int32")
    function = pytensor.function([images, weights], max_pool_2d(images, 2).flatten(2) @ weights, mode=NUMBA)
    assert count(function, Dot) == 1
    assert count(function, KeptDot) == 0


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    inputs, outputs, (images, *others) = layer("float32")
    units, *gradients = pytensor.function(inputs, outputs, mode=NUMBA)(images[:batch], *others)
    assert units.shape == (batch, 4)
    assert [gradient.shape for gradient in gradients] == [(batch, 2, 6, 7), (3, 4)]
    assert np.all(gradients[1] == 0) == (batch == 0)


def test_a_freed_product_leaves_its_memory():
    inputs, [units, *_], (images, filters, _) = layer("float32")
    function = pytensor.function(inputs, pytensor.Out(units, borrow=True), mode=NUMBA)
    weights = np.ones((3, 1 << 14), "float32")
    product = function(images, filters, weights)
    gc.collect()  # of other tests
    release_memory()
    size = product.nbytes
    del product
    assert size <= kept_bytes() < 2 * size  # whatever else was freed meanwhile is smaller


@pytest.mark.parametrize(("order", "transposed"), [("C", "F"), ("F", "C")])
def test_compiled_code_knows_how_a_transpose_lies(order, transposed):
    matrix = np.asarray(random.standard_normal((3, 2)), order=order)
    transpose = numba_funcify(ordered_transpose, ordered_transpose.make_node(pt.matrix(dtype="float64")))
    caller = numba.njit(lambda x: transpose(x))  # PyTensor's functions cannot be called by Python
    np.testing.assert_array_equal(caller(matrix), matrix.T)
    [signature] = caller.nopython_signatures
    assert signature.return_type.layout == transposed
