"""The mean over processes in a graph, by itself: with one process it is the identity."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.graph.replace import vectorize_graph

from pytensor_convnet.distributed import all_mean
from pytensor_convnet.ops import AllMean
from tests.ops.common import PYTHON, check_infer_shape, check_pushforward, check_static_shapes, close

RANDOM = np.random.default_rng(0)
TENSORS = [RANDOM.standard_normal((2, 3)), RANDOM.standard_normal(4).astype("float32"), np.array(0.5)]


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "FAST_RUN", "NUMBA"])
def test_of_one_process_is_the_identity(mode):
    tensors = [pt.tensor(dtype=array.dtype, shape=(None,) * array.ndim) for array in TENSORS]
    for mean, array in zip(pytensor.function(tensors, all_mean(*tensors), mode=mode)(*TENSORS), TENSORS, strict=True):
        assert mean.dtype == array.dtype
        np.testing.assert_array_equal(mean, array)


def test_one_tensor_gives_one_tensor():
    assert all_mean(pt.vector()).type.ndim == 1


def test_static_shapes():
    check_static_shapes(AllMean(), TENSORS)


def test_infer_shape():
    check_infer_shape(AllMean(), TENSORS)


def test_pushforward():
    check_pushforward(AllMean(), [TENSORS[0]])


def test_each_mean_has_the_gradient_of_its_own_tensor():
    x, y = pt.vector(dtype="float64"), pt.vector(dtype="float64")
    means = all_mean(x, y)
    gradients = pytensor.grad((means[0] ** 2).sum() + (3 * means[1]).sum(), [x, y])
    function = pytensor.function([x, y], gradients, mode=PYTHON, on_unused_input="ignore")
    for gradient, expected in zip(function([1, 2], [4, 5]), ([2, 4], [3, 3]), strict=True):
        close(gradient, expected)


def test_a_tensor_whose_mean_is_not_used_has_no_gradient():
    x, y = pt.vector(), pt.vector()
    with pytest.raises(pytensor.gradient.DisconnectedInputError):
        pytensor.grad(all_mean(x, y)[1].sum(), x)


def test_gradients_travel_together():
    x, y = pt.vector(), pt.vector()
    means = all_mean(x, y)
    first, second = pytensor.grad((means[0] * means[1]).sum(), [x, y])
    assert first.owner is second.owner
    assert isinstance(first.owner.op, AllMean)


def test_vectorizes_into_one_mean():
    x, y = pt.vector(dtype="float64"), pt.scalar(dtype="float64")
    stack = pt.matrix(dtype="float64")
    outputs = vectorize_graph(all_mean(x, y), {x: stack})
    assert isinstance(outputs[0].owner.op, AllMean)
    values = np.arange(6.0).reshape(2, 3)
    mean, other = pytensor.function([stack, y], outputs, mode=PYTHON)(values, 1)
    close(mean, values)
    close(other, 1)


def test_constants_are_not_folded():
    """A constant of this process need not be the same in another."""
    function = pytensor.function([], all_mean(pt.constant(np.ones(3))), mode=PYTHON)
    assert any(isinstance(node.op, AllMean) for node in function.maker.fgraph.apply_nodes)


def test_means_share_no_memory_with_what_they_are_of():
    x = pt.vector(dtype="float64")
    array = np.ones(3)
    mean = pytensor.function([pytensor.In(x, borrow=True)], pytensor.Out(all_mean(x), borrow=True), mode=PYTHON)(array)
    assert not np.shares_memory(mean, array)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "tensors must be at least one, got none"),
        ([pt.vector(), pt.lvector()], "tensors must have a dtype among float16, .* got int64 at position 1"),
        ([object()], "tensors must be tensors, got <object"),
    ],
)
def test_what_has_no_mean_is_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        all_mean(*tensors)
