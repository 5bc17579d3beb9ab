"""What follows from shapes alone is computed by Ops whose results are numbers while JAX compiles."""

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.elemwise import Elemwise

from pytensor_convnet import conv2d, max_pool_2d, pool_2d
from pytensor_convnet.ops import AveragePool2d
from pytensor_convnet.ops.lengths import KnownLength, KnownLengths
from tests.rewriting.common import PYTHON, check, compiled, count

MODE = PYTHON.including("know_lengths")

random = np.random.default_rng(0)


def integer_nodes(function):
    """The nodes at which lengths are computed as arrays."""
    nodes = [node for node in function.maker.fgraph.apply_nodes if isinstance(node.op, Elemwise)]
    return [node for node in nodes if node.outputs[0].type.ndim == 0 and node.outputs[0].type.dtype == "int64"]


def test_lengths_of_maps_within_a_network():
    images, filters = pt.tensor4(dtype="float64"), pt.tensor4(dtype="float64")
    hidden = max_pool_2d(conv2d(images, filters), 2, True)
    gradient = pytensor.grad((pool_2d(hidden, 2, True, mode="sum") ** 2).sum(), filters)
    values = random.standard_normal((2, 3, 11, 12)), random.standard_normal((4, 3, 3, 2))
    known, plain = check("know_lengths", [images, filters], [gradient], values, mode=MODE)
    assert integer_nodes(plain)
    assert not integer_nodes(known)
    assert count(known, KnownLength)


def test_windows_made_of_lengths():
    images = pt.tensor4(dtype="float64")
    pooled = pool_2d(images, (images.shape[2] // 2, images.shape[3]), True, mode="sum")
    known, _ = check("know_lengths", [images], [pooled], [random.standard_normal((2, 3, 6, 5))], mode=MODE)
    [pool] = [node for node in known.maker.fgraph.apply_nodes if isinstance(node.op, AveragePool2d)]
    assert isinstance(pool.inputs[1].owner.op, KnownLengths)


def test_what_depends_on_values_stays():
    images, window = pt.tensor4(dtype="float64"), pt.lscalar()
    pooled = pool_2d(images, window + 1, True, mode="sum")
    function = compiled([images, window], [pooled, images.shape[2] + window], mode=MODE)
    assert not count(function, KnownLength)
    assert not count(function, KnownLengths)


def test_graphs_without_our_ops_are_left_alone():
    x = pt.matrix()
    assert not count(compiled([x], pt.zeros(x.shape[0] + 2), mode=MODE), KnownLength)
