"""The public convolutions: Theano's arguments mean what they meant."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import (
    conv2d,
    conv2d_grad_wrt_inputs,
    conv2d_grad_wrt_weights,
    conv2d_transpose,
    separable_conv2d,
)
from pytensor_convnet.ops import Correlate2d
from tests import independent
from tests.ops.common import PYTHON, close

random = np.random.default_rng(0)
IMAGES = random.standard_normal((2, 4, 8, 7))
FILTERS = random.standard_normal((6, 4, 3, 2))
NONE = ((0, 0), (0, 0))


def value(variable):
    return variable.eval(mode=PYTHON)


def expected(images, filters, stride=(1, 1), padding=NONE, dilation=(1, 1), groups=1, flip=True):
    return independent.correlate2d(images, filters, stride, padding, dilation, groups, flip)


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        ({}, {}),
        ({"filter_flip": False}, {"flip": False}),
        ({"border_mode": "valid"}, {}),
        ({"border_mode": "half"}, {"padding": ((1, 1), (1, 1))}),
        ({"border_mode": "full"}, {"padding": ((2, 2), (1, 1))}),
        ({"border_mode": 2}, {"padding": ((2, 2), (2, 2))}),
        ({"border_mode": (2, 1)}, {"padding": ((2, 2), (1, 1))}),
        ({"border_mode": ((2, 0), (0, 1))}, {"padding": ((2, 0), (0, 1))}),
        ({"subsample": (2, 3)}, {"stride": (2, 3)}),
        ({"subsample": 2}, {"stride": (2, 2)}),
        ({"filter_dilation": (2, 1)}, {"dilation": (2, 1)}),
        ({"border_mode": "half", "filter_dilation": 2}, {"padding": ((2, 2), (1, 1)), "dilation": (2, 2)}),
    ],
)
def test_conv2d_arguments(arguments, meaning):
    close(value(conv2d(pt.as_tensor(IMAGES), FILTERS, **arguments)), expected(IMAGES, FILTERS, **meaning))


@pytest.mark.parametrize("border_mode", ["half", "full"])
def test_border_modes_follow_filters_whose_shape_is_not_known(border_mode):
    filters = pt.tensor4("filters", dtype="float64")
    maps = conv2d(pt.as_tensor(IMAGES), filters, border_mode=border_mode)
    gradient = pytensor.grad(maps.sum(), filters)
    function = pytensor.function([filters], [maps, gradient], mode=PYTHON)
    for taps in [(1, 1), (2, 3), (5, 4)]:
        values = random.standard_normal((3, 4, *taps))
        ours, ours_gradient = function(values)
        fixed = conv2d(pt.as_tensor(IMAGES), values, border_mode=border_mode)
        close(ours, value(fixed))
        assert ours_gradient.shape == values.shape


def test_groups_do_not_see_each_other():
    filters = FILTERS[:, :2]
    close(value(conv2d(pt.as_tensor(IMAGES), filters, num_groups=2)), expected(IMAGES, filters, groups=2))


def test_image_shape_is_the_old_name_of_input_shape():
    images = pt.tensor4("images", dtype="float64")
    for name in ("input_shape", "image_shape"):
        maps = conv2d(images, FILTERS, **{name: (2, 4, 8, None)}, filter_shape=(6, 4, 3, 2))
        assert maps.type.shape == (2, 6, 6, None)


def test_known_shapes_are_checked_when_the_function_runs():
    images = pt.tensor4("images", dtype="float64")
    function = pytensor.function([images], conv2d(images, FILTERS, input_shape=(None, 4, 9, 9)), mode=PYTHON)
    with pytest.raises(AssertionError, match="SpecifyShape"):
        function(IMAGES)


def test_bytes_convolve_with_floats():
    image = np.arange(16, dtype="uint8").reshape(1, 1, 4, 4)
    maps = conv2d(pt.as_tensor(image), np.ones((1, 1, 2, 2), "float32"))
    assert maps.type.dtype == "float32"
    close(value(maps)[0, 0, 0], [10, 14, 18])


def test_unshared_filters_are_positions_own():
    maps = expected(IMAGES, FILTERS)
    filters = np.broadcast_to(FILTERS[:, None, None], (6, *maps.shape[2:], 4, 3, 2)).copy()
    close(value(conv2d(pt.as_tensor(IMAGES), filters, unshared=True)), maps)
    filters[2, 1, 3] = 0
    maps[:, 2, 1, 3] = 0
    close(value(conv2d(pt.as_tensor(IMAGES), filters, unshared=True)), maps)


GEOMETRIES = [
    {},
    {"border_mode": "half", "subsample": (2, 1)},
    {"border_mode": ((1, 0), (2, 1)), "filter_dilation": (1, 2), "filter_flip": False},
    {"num_groups": 2, "subsample": 2},
]


@pytest.mark.parametrize("unshared", [False, True])
@pytest.mark.parametrize("arguments", GEOMETRIES)
def test_gradient_functions_are_conv2ds_gradients(arguments, unshared):
    groups = arguments.get("num_groups", 1)
    values = FILTERS[:, : 4 // groups]
    maps_shape = value(conv2d(pt.as_tensor(IMAGES), values, **arguments)).shape
    if unshared:
        values = random.standard_normal((6, *maps_shape[2:], *values.shape[1:]))
    images, filters = pt.as_tensor(IMAGES), pt.as_tensor(values)
    output_grad = random.standard_normal(maps_shape)
    maps = conv2d(images, filters, **arguments, unshared=unshared)
    by_inputs, by_filters = pytensor.grad(None, [images, filters], known_grads={maps: pt.as_tensor(output_grad)})
    close(
        value(conv2d_grad_wrt_inputs(output_grad, filters, IMAGES.shape, **arguments, unshared=unshared)),
        value(by_inputs),
    )
    close(
        value(conv2d_grad_wrt_weights(images, output_grad, values.shape, **arguments, unshared=unshared)),
        value(by_filters),
    )


def test_gradient_functions_take_symbolic_and_partial_shapes():
    rows = pt.lscalar("rows")
    output_grad = np.ones((2, 6, 3, 6))
    gradient = conv2d_grad_wrt_inputs(output_grad, FILTERS, (None, None, rows, 7), subsample=(2, 1))
    assert gradient.type.shape == (2, 4, None, 7)
    for length in (7, 8):
        assert gradient.eval({rows: length}, mode=PYTHON).shape == (2, 4, length, 7)


def test_conv2d_transpose_is_adjoint_to_conv2d():
    arguments = {"border_mode": "half", "filter_dilation": (1, 2)}
    maps = value(conv2d(pt.as_tensor(IMAGES), FILTERS, subsample=(2, 1), **arguments))
    small = random.standard_normal(maps.shape)
    large = value(
        conv2d_transpose(pt.as_tensor(small), FILTERS, (None, None, 8, 7), input_dilation=(2, 1), **arguments)
    )
    assert large.shape == IMAGES.shape
    close((large * IMAGES).sum(), (small * maps).sum())


def test_separable_conv2d_is_depthwise_then_pointwise():
    depthwise, pointwise = random.standard_normal((8, 1, 3, 3)), random.standard_normal((5, 8, 1, 1))
    arguments = {"border_mode": "half", "subsample": 2}
    maps = separable_conv2d(pt.as_tensor(IMAGES), depthwise, pointwise, 4, **arguments)
    between = expected(IMAGES, depthwise, (2, 2), ((1, 1), (1, 1)), groups=4)
    close(value(maps), expected(between, pointwise))


def test_known_grads_reach_the_filters():
    filters = pt.tensor4("filters", dtype="float64")
    maps = conv2d(pt.as_tensor(IMAGES), filters)
    gradient = pytensor.grad(None, filters, known_grads={maps: pt.ones_like(maps)})
    alone = pytensor.grad(maps.sum(), filters)
    close(gradient.eval({filters: FILTERS}, mode=PYTHON), alone.eval({filters: FILTERS}, mode=PYTHON))


def test_the_flip_is_part_of_the_op():
    maps = conv2d(pt.tensor4(), pt.tensor4())
    assert maps.owner.op == Correlate2d(flip=True)
