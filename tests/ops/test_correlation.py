"""Correlation Ops: values, derivatives of first and second order, shapes, vectorisation, refusals."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import assume, given
from pytensor.gradient import verify_grad
from pytensor.graph.replace import vectorize_graph

from pytensor_convnet import reference
from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
    LocallyConnected2dInputGrad,
)
from tests import independent
from tests.ops.common import (
    PYTHON,
    check_infer_shape,
    check_pushforward,
    check_static_shapes,
    check_vectorized,
    close,
    run,
)
from tests.strategies import correlations

SHARED = (Correlate2d, Correlate2dInputGrad, Correlate2dFilterGrad)
UNSHARED = (LocallyConnected2d, LocallyConnected2dInputGrad, LocallyConnected2dFilterGrad)

WINDOWS = [
    pytest.param({}, id="plain"),
    pytest.param({"stride": (2, 1), "padding": ((1, 0), (2, 1))}, id="strided"),
    pytest.param({"dilation": (1, 2), "groups": 2, "flip": True}, id="dilated-grouped-flipped"),
    pytest.param({"stride": 3, "padding": "half", "groups": 2}, id="half"),
    pytest.param({"stride": 2, "padding": "full"}, id="full"),
]


def three_passes(window, family):
    """Each Op of a family with arrays and integers that fit it."""
    random = np.random.default_rng(0)
    forward, input_grad, filter_grad = (op_type(**window) for op_type in family)
    images = random.standard_normal((2, 4, 7, 6))
    filters = random.standard_normal((4, 4 // forward.groups, 3, 2))
    if family is UNSHARED:
        counts = forward.map_lengths(images.shape, filters.shape)
        filters = random.standard_normal((4, *counts, 4 // forward.groups, 3, 2))
    maps = random.standard_normal(run(forward, images, filters)[0].shape)
    return [
        (forward, [images, filters], ()),
        (input_grad, [filters, maps], (7, 6)),
        (filter_grad, [images, maps], (3, 2)),
    ]


every_pass = pytest.mark.parametrize("which", range(3), ids=["forward", "input_grad", "filter_grad"])
every_family = pytest.mark.parametrize("family", [SHARED, UNSHARED], ids=["shared", "unshared"])
every_window = pytest.mark.parametrize("window", WINDOWS)


@given(correlations())
def test_forward_agrees_with_scipy_and_the_reference(case):
    [maps] = run(Correlate2d(*case.window), case.images, case.filters)
    close(maps, reference.correlate2d(case.images, case.filters, *case.window))
    if len(case.images):
        close(maps, independent.correlate2d(case.images, case.filters, *case.window))


@given(correlations())
def test_input_grad_agrees_with_scipy_and_the_reference(case):
    arguments = case.filters, case.maps, *case.rows_and_columns
    [images] = run(Correlate2dInputGrad(*case.window), *arguments)
    close(images, reference.correlate2d_input_grad(*arguments, *case.window))
    close(images, independent.correlate2d_input_grad(*arguments, *case.window))


@given(correlations())
def test_filter_grad_agrees_with_scipy_and_the_reference(case):
    arguments = case.images, case.maps, *case.taps
    [filters] = run(Correlate2dFilterGrad(*case.window), *arguments)
    close(filters, reference.correlate2d_filter_grad(*arguments, *case.window))
    close(filters, independent.correlate2d_filter_grad(*arguments, *case.window))


@given(correlations(unshared=True))
def test_locally_connected_passes_agree_with_the_reference(case):
    [maps] = run(LocallyConnected2d(*case.window), case.images, case.filters)
    close(maps, reference.locally_connected2d(case.images, case.filters, *case.window))
    arguments = case.filters, case.maps, *case.rows_and_columns
    [images] = run(LocallyConnected2dInputGrad(*case.window), *arguments)
    close(images, reference.locally_connected2d_input_grad(*arguments, *case.window))
    arguments = case.images, case.maps, *case.taps
    [filters] = run(LocallyConnected2dFilterGrad(*case.window), *arguments)
    close(filters, reference.locally_connected2d_filter_grad(*arguments, *case.window))


@given(correlations(dtype="float32"))
def test_float32_stays_float32(case):
    [maps] = run(Correlate2d(*case.window), case.images, case.filters)
    assert maps.dtype == "float32"
    close(maps, reference.correlate2d(case.images.astype("float64"), case.filters, *case.window), 1e-4)


@every_pass
@every_family
@every_window
def test_gradient_matches_finite_differences(window, family, which):
    op, arrays, integers = three_passes(window, family)[which]
    verify_grad(lambda *x: op(*x, *integers), arrays, mode=PYTHON, rng=np.random.default_rng(0))


@every_pass
@every_family
@pytest.mark.parametrize("window", WINDOWS[1:3])
def test_second_derivative_matches_finite_differences(window, family, which):
    op, arrays, integers = three_passes(window, family)[which]

    def gradients(*tensors):
        cost = (op(*tensors, *integers) ** 2).sum()
        return pt.concatenate([g.flatten() for g in pytensor.grad(cost, list(tensors))])

    verify_grad(gradients, arrays, mode=PYTHON, rng=np.random.default_rng(0))


@every_pass
@every_family
@every_window
def test_pushforward_matches_finite_differences(window, family, which):
    check_pushforward(*three_passes(window, family)[which])


@every_pass
@every_family
@every_window
def test_static_shapes_are_the_shapes_that_come_out(window, family, which):
    check_static_shapes(*three_passes(window, family)[which])


@every_pass
@every_family
@every_window
def test_shapes_are_inferred_without_computing(window, family, which):
    check_infer_shape(*three_passes(window, family)[which])


@every_pass
@every_family
@pytest.mark.parametrize("batched", [(0,), (1,), (0, 1)])
def test_vectorize_graph_stacks_results(family, which, batched):
    op, arrays, integers = three_passes({"stride": (2, 1), "groups": 2}, family)[which]
    check_vectorized(op, arrays, integers, batched)


def test_vectorizing_over_images_alone_keeps_one_op():
    images, filters = pt.tensor4("images"), pt.tensor4("filters")
    batched = pt.tensor("batched", shape=(None,) * 5)
    maps = vectorize_graph(Correlate2d()(images, filters), {images: batched})
    function = pytensor.function([batched, filters], maps, mode=PYTHON)
    assert Correlate2d() in [node.op for node in function.maker.fgraph.apply_nodes]


def test_mixed_float_dtypes_are_widened():
    node = Correlate2d().make_node(np.ones((1, 1, 3, 3), "float32"), np.ones((1, 1, 2, 2)))
    assert node.outputs[0].type.dtype == "float64"


def test_equal_properties_make_equal_ops():
    assert Correlate2d(stride=2) == Correlate2d(stride=(2, 2))
    assert Correlate2d(stride=2) != Correlate2d(stride=2, flip=True)
    assert hash(Correlate2d(padding="valid")) == hash(Correlate2d(padding=0))
    assert Correlate2d() != LocallyConnected2d()


def test_an_op_prints_what_is_not_default():
    op = Correlate2d(stride=(2, 2), padding=1, dilation=(1, 3), groups=4, flip=True)
    assert str(op) == "Correlate2d{stride=2, padding=((1, 1), (1, 1)), dilation=1x3, groups=4, flip}"


def test_gradient_for_one_tensor_does_not_compute_the_other():
    images, filters = pt.tensor4("images", dtype="float64"), pt.tensor4("filters", dtype="float64")
    gradient = pytensor.grad(Correlate2d()(images, filters).sum(), filters)
    ops = [n.op for n in pytensor.function([images, filters], gradient, mode=PYTHON).maker.fgraph.apply_nodes]
    assert Correlate2dFilterGrad() in ops
    assert Correlate2dInputGrad() not in ops
    assert Correlate2d() not in ops


@given(correlations())
def test_a_wrong_output_gradient_is_refused(case):
    assume(case.maps.shape[2] > 1)
    short = case.maps[:, :, 1:]
    with pytest.raises(ValueError, match="output_grad is .* but this convolution's output is"):
        run(Correlate2dInputGrad(*case.window), case.filters, short, *case.rows_and_columns)
    with pytest.raises(ValueError, match="output_grad is .* but this convolution's output is"):
        run(Correlate2dFilterGrad(*case.window), case.images, short, *case.taps)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"stride": 0}, "subsample must be at least 1"),
        ({"dilation": (1, 0)}, "filter_dilation must be at least 1"),
        ({"groups": 0}, "num_groups must be at least 1"),
        ({"padding": "same"}, "border_mode must be"),
    ],
)
def test_wrong_properties_are_refused_by_name(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Correlate2d(**arguments)


def test_locally_connected_filters_for_the_wrong_number_of_positions_are_refused():
    with pytest.raises(ValueError, match="output is"):
        LocallyConnected2d()(np.ones((1, 1, 4, 4)), np.ones((1, 2, 2, 1, 2, 2)))
