"""Means over processes that do not wait for one another are taken together."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import get_mode

from pytensor_convnet.distributed import all_mean
from pytensor_convnet.ops import AllMean
from tests.rewriting.common import PYTHON, check, count, operations

X, Y = np.arange(3.0), np.arange(4.0)


@pytest.mark.parametrize("mode", [PYTHON, "FAST_COMPILE"])
def test_independent_means_become_one(mode):
    x, y = pt.vector(dtype="float64"), pt.vector(dtype="float64")
    mode = get_mode(mode)
    function, plain = check("join_all_means", [x, y], [2 * all_mean(x), all_mean(y) + 1], (X, Y), mode=mode)
    assert (count(function, AllMean), count(plain, AllMean)) == (1, 2)


def test_what_depends_on_a_mean_waits_for_it():
    """The mean of y joins that of x; the mean of what is made of it comes after both."""
    x, y = pt.vector(dtype="float64"), pt.vector(dtype="float64")
    first = all_mean(x)
    second = all_mean(first**2)
    function, _ = check("join_all_means", [x, y], [second, all_mean(y)], (X, Y))
    means = [node for node in function.maker.fgraph.toposort() if isinstance(node.op, AllMean)]
    assert [len(node.inputs) for node in means] == [2, 1]


def test_a_tensor_goes_once():
    x, y = pt.vector(dtype="float64"), pt.vector(dtype="float64")
    function, _ = check("join_all_means", [x, y], [*all_mean(x, y), all_mean(x) + 1], (X, Y))
    [mean] = [op for op in operations(function) if isinstance(op, AllMean)]
    [node] = [node for node in function.maker.fgraph.apply_nodes if node.op == mean]
    assert len(node.inputs) == 2


def test_one_mean_is_left_alone():
    x = pt.vector(dtype="float64")
    function = pytensor.function([x], all_mean(x), mode=PYTHON)
    assert operations(function) == [AllMean()]
