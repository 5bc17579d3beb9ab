"""Sums are accumulated, and ranges counted, in the dtypes of their results."""

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.basic import ARange
from pytensor.tensor.math import Sum

from pytensor_convnet import conv2d
from tests.rewriting.common import PYTHON, check, compiled, operations

MODE = PYTHON.including("keep_dtypes")


def accumulators(function):
    return {op.acc_dtype for op in operations(function) if isinstance(op, Sum)}


def test_sums_of_float32():
    images = pt.tensor4(dtype="float32")
    total = conv2d(images, np.ones((2, 1, 2, 2), "float32")).sum(axis=0)
    values = [np.random.default_rng(0).standard_normal((9, 1, 4, 4), dtype="float32")]
    kept, plain = check("keep_dtypes", [images], [total], values, mode=MODE, tolerance=1e-5)
    assert (accumulators(kept), accumulators(plain)) == ({"float32"}, {"float64"})


def test_constants_of_ranges():
    images = pt.tensor4(dtype="float64")
    rows = conv2d(images, np.ones((1, 1, 2, 2)))[pt.arange(images.shape[0]), pt.zeros_like(images[:, 0, 0, 0], "int64")]
    function = compiled([images], rows, mode=MODE)
    [node] = [node for node in function.maker.fgraph.apply_nodes if isinstance(node.op, ARange)]
    assert {x.type.dtype for x in node.inputs} == {node.op.dtype}
    assert function(np.ones((3, 1, 3, 3))).shape == (3, 2, 2)


def test_graphs_without_our_ops_are_left_alone():
    x = pt.matrix(dtype="float32")
    assert accumulators(compiled([x], x.sum(), mode=MODE)) == {"float64"}
