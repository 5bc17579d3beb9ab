"""Flips of filters fold into the Ops, forward and backward; anything else than a half turn stays."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.tensor.subtensor import IncSubtensor, Subtensor

from pytensor_convnet import conv2d
from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
)
from tests.rewriting.common import check, compiled, count, operations

random = np.random.default_rng(0)
images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
values = [random.standard_normal((2, 3, 8, 7)), random.standard_normal((4, 3, 3, 2))]
turned = filters[:, :, ::-1, ::-1]


def op_of(function, op_type):
    [op] = [op for op in operations(function) if isinstance(op, op_type)]
    return op


def views(function):
    return count(function, Subtensor | IncSubtensor)


@pytest.mark.parametrize("flip", [True, False])
def test_the_forward_pass_turns_the_filters_itself(flip):
    maps = conv2d(images, turned, filter_flip=flip, subsample=2, border_mode="half")
    rewritten, plain = check("fold_filter_flip", [images, filters], [maps], values)
    assert op_of(rewritten, Correlate2d).flip is not flip
    assert op_of(rewritten, Correlate2d).stride == (2, 2)
    assert views(rewritten) == 0
    assert views(plain) > 0


def test_gradients_turn_the_filters_themselves():
    maps = conv2d(images, turned, filter_flip=False)
    gradients = pytensor.grad((maps**2).sum(), [images, filters])
    rewritten, plain = check("convnet", [images, filters], gradients, values)
    assert all(op_of(rewritten, op).flip for op in (Correlate2d, Correlate2dInputGrad, Correlate2dFilterGrad))
    assert not any(op_of(plain, op).flip for op in (Correlate2d, Correlate2dInputGrad, Correlate2dFilterGrad))
    assert views(rewritten) == 0


def test_gradients_of_known_shapes_turn_the_filters_themselves():
    x, w = (pt.tensor(dtype="float64", shape=value.shape) for value in values)
    gradients = pytensor.grad((conv2d(x, w[..., ::-1, ::-1], filter_flip=False) ** 2).sum(), [x, w])
    rewritten, _ = check("convnet", [x, w], gradients, values)
    assert views(rewritten) == 0


def test_each_rewrite_can_be_left_out():
    maps = conv2d(images, turned, filter_flip=False)
    gradient = pytensor.grad((maps**2).sum(), filters)
    for name in ("fold_filter_flip", "fold_flip_of_filter_grad"):
        rewritten, _ = check(name, [images, filters], [gradient], values)
        assert views(rewritten) == 0


def test_gradients_of_groups_turn_the_filters_themselves():
    x, w = pt.tensor4("x", dtype="float64"), pt.tensor4("w", dtype="float64")
    maps = conv2d(x, w[:, :, ::-1, ::-1], filter_flip=False, num_groups=3, filter_dilation=2)
    gradients = pytensor.grad((maps**2).sum(), [x, w])
    rewritten, _ = check("convnet", [x, w], gradients, [values[0], random.standard_normal((6, 1, 2, 2))])
    assert views(rewritten) == 0


def test_flips_of_pixelwise_filters_fold():
    local = pt.tensor("local", dtype="float64", shape=(2, 3, 2, 1, 2, 2))
    x = pt.tensor("x", dtype="float64", shape=(1, 1, 4, 3))
    maps = conv2d(x, local[..., ::-1, ::-1], filter_flip=False, unshared=True)
    outputs = [maps, pytensor.grad((maps**2).sum(), local)]
    rewritten, _ = check("convnet", [x, local], outputs, [random.standard_normal(v.type.shape) for v in (x, local)])
    assert op_of(rewritten, LocallyConnected2d).flip
    assert op_of(rewritten, LocallyConnected2dFilterGrad).flip
    assert views(rewritten) == 0


OTHER_VIEWS = {
    "one-axis": lambda w: w[:, :, ::-1],
    "other-axes": lambda w: w[::-1, :, ::-1, ::-1],
    "from-elsewhere": lambda w: w[:, :, 1::-1, ::-1],
    "wider-step": lambda w: w[:, :, ::-2, ::-1],
    "forward": lambda w: w[:, :, 1:, :],
}


@pytest.mark.parametrize("name", OTHER_VIEWS)
def test_other_views_stay(name):
    maps = conv2d(images, OTHER_VIEWS[name](filters), filter_flip=False)
    gradient = pytensor.grad((maps**2).sum(), filters)
    rewritten = compiled([images, filters], [maps, gradient])
    assert not op_of(rewritten, Correlate2d).flip
    assert views(rewritten) > 0
    for ours, other in zip(rewritten(*values), compiled([images, filters], [maps, gradient], "convnet")(*values)):
        np.testing.assert_allclose(ours, other)


def test_a_gradient_added_to_something_is_still_added():
    gradient = Correlate2dFilterGrad()(images, conv2d(images, filters), 3, 2)
    added = filters[:, :, ::-1, ::-1].inc(gradient)
    function, plain = (compiled([images, filters], added, *names) for names in ((), ("convnet",)))
    np.testing.assert_allclose(function(*values), plain(*values))
