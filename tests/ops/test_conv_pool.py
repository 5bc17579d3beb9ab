"""Fused correlation and max pooling: values, derivatives of first and second order, shapes, refusals, both linkers."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet import reference
from pytensor_convnet.ops import (
    Correlate2d,
    CorrelateMaxPool2d,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
    MaxPool2d,
)
from tests.ops.common import (
    PYTHON,
    check_infer_shape,
    check_pushforward,
    check_static_shapes,
    check_vectorized,
    close,
    run,
    symbols_like,
)

PLAIN = ((2, 2), (2, 2), ((0, 0), (0, 0)))
OVERLAPPING = ((3, 2), (2, 1), ((1, 1), (0, 1)))
CASES = [
    pytest.param(({}, PLAIN, True, "identity"), id="plain"),
    pytest.param(
        ({"stride": (2, 1), "padding": ((1, 0), (2, 1))}, OVERLAPPING, True, "relu"), id="strided-overlapping-relu"
    ),
    pytest.param(
        ({"dilation": (1, 2), "groups": 2, "flip": True}, OVERLAPPING, False, "identity"),
        id="dilated-grouped-flipped-partial",
    ),
    pytest.param(({"padding": "half"}, PLAIN, False, "relu"), id="half-relu"),
    pytest.param(({"padding": "full", "stride": 2}, PLAIN, True, "identity"), id="full"),
]
every_case = pytest.mark.parametrize("case", CASES)
every_pass = pytest.mark.parametrize("which", range(3), ids=["forward", "input_grad", "filter_grad"])


def three_passes(case):
    """Each fused Op with arrays and integers that fit it, and the arguments of the reference."""
    options, windows, ignore_border, activation = case
    correlation, pooling = Correlate2d(**options), MaxPool2d(ignore_border)
    random = np.random.default_rng(0)
    images = random.standard_normal((2, 4, 9, 8))
    filters = random.standard_normal((4, 4 // correlation.groups, 3, 2))
    biases = random.standard_normal(4)
    [full] = run(correlation, images, filters)
    maxima, winners = run(pooling, full, *windows)
    maps = random.standard_normal(maxima.shape)
    return [
        (CorrelateMaxPool2d(correlation, pooling, activation), [images, filters, biases], windows),
        (
            CorrelateMaxPool2dInputGrad(correlation),
            [filters, winners, maps],
            (*images.shape[2:], *full.shape[2:], *windows),
        ),
        (
            CorrelateMaxPool2dFilterGrad(correlation),
            [images, winners, maps],
            (*filters.shape[2:], *full.shape[2:], *windows),
        ),
    ]


def sliding(op):
    c = op.correlation
    return c.stride, c.resolved_padding(3, 2), c.dilation, c.groups, c.flip


@every_case
def test_values_agree_with_the_reference(case):
    (forward, arrays, windows), (input_grad, *inputs), (filter_grad, *others) = three_passes(case)
    slide = sliding(forward)
    images, filters, biases = arrays
    expected = reference.correlate2d_max_pool2d(
        images, filters, np.uint8, *slide, *windows, forward.pooling.ignore_border, biases, forward.activation
    )
    maxima, winners = run(forward, *arrays, *windows)
    close(maxima, expected[0])
    np.testing.assert_array_equal(winners, expected[1])
    for op, (tensors, integers), define in [
        (input_grad, inputs, reference.correlate2d_max_pool2d_input_grad),
        (filter_grad, others, reference.correlate2d_max_pool2d_filter_grad),
    ]:
        expected = define(*tensors, *integers[:4], *slide, *windows)
        close(run(op, *tensors, *integers)[0], expected)


@every_pass
@every_case
def test_numba_agrees_with_the_python_linker(case, which):
    op, arrays, integers = three_passes(case)[which]
    tensors = symbols_like(arrays)
    outputs = op.make_node(*tensors, *integers).outputs
    ours, other = (pytensor.function(tensors, outputs, mode=mode)(*arrays) for mode in ("NUMBA", PYTHON))
    for result, expected in zip(ours, other):
        assert result.dtype == expected.dtype
        close(result, expected)


def floats(op, arrays, integers):
    """The Op as a function of its float arrays, and those."""
    places = [i for i, array in enumerate(arrays) if array.dtype.kind == "f"]

    def function(*tensors):
        moved = dict(zip(places, tensors))
        inputs = [moved.get(i, array) for i, array in enumerate(arrays)]
        return op.make_node(*inputs, *integers).outputs[0]

    return function, [arrays[i] for i in places]


@every_pass
@every_case
def test_gradient_matches_finite_differences(case, which):
    function, arrays = floats(*three_passes(case)[which])
    verify_grad(function, arrays, mode=PYTHON, rng=np.random.default_rng(0))


@every_pass
def test_second_derivative_matches_finite_differences(which):
    function, arrays = floats(*three_passes(CASES[2].values[0])[which])

    def gradients(*tensors):
        cost = (function(*tensors) ** 2).sum()
        return pt.concatenate([g.flatten() for g in pytensor.grad(cost, list(tensors))])

    verify_grad(gradients, arrays, mode=PYTHON, rng=np.random.default_rng(0))


@every_pass
@every_case
def test_pushforward_matches_finite_differences(case, which):
    check_pushforward(*three_passes(case)[which])


@every_pass
@every_case
def test_static_shapes_are_the_shapes_that_come_out(case, which):
    check_static_shapes(*three_passes(case)[which])


@every_pass
@every_case
def test_shapes_are_inferred_without_computing(case, which):
    check_infer_shape(*three_passes(case)[which])


@every_pass
def test_vectorize_graph_stacks_results(which):
    op, arrays, integers = three_passes(CASES[1].values[0])[which]
    check_vectorized(op, arrays, integers, (0,) if which == 0 else range(len(arrays)))


@pytest.mark.parametrize("mode", [PYTHON, "NUMBA"], ids=["python", "numba"])
def test_tanh_and_its_gradient_in_float32(mode):
    (forward, arrays, windows), *_ = three_passes(CASES[0].values[0])
    op = CorrelateMaxPool2d(forward.correlation, forward.pooling, "tanh")
    arrays = [array.astype("float32") for array in arrays]
    tensors = symbols_like(arrays)
    maxima, biased = op(*tensors, *windows)[0], pt.tanh(forward(*tensors, *windows)[0])
    ours, theirs = ([y, *pytensor.grad((y**2).sum(), tensors)] for y in (maxima, biased))
    for result, expected in zip(*(pytensor.function(tensors, y, mode=mode)(*arrays) for y in (ours, theirs))):
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


def test_a_muting_rectifier_leaves_no_winner_where_a_maximum_was_negative():
    (forward, arrays, windows), *_ = three_passes(CASES[0].values[0])
    identity, muting = (
        CorrelateMaxPool2d(forward.correlation, forward.pooling, name) for name in ("identity", "muting_relu")
    )
    maxima, winners = run(identity, *arrays, *windows)
    rectified, shown = run(muting, *arrays, *windows)
    np.testing.assert_array_equal(rectified, np.maximum(maxima, 0))
    np.testing.assert_array_equal(shown, np.where(maxima < 0, np.uint8(255), winners))
    assert 0 < (maxima < 0).mean() < 1


def test_unknown_and_unfit_activations_are_refused():
    (forward, arrays, windows), *_ = three_passes(CASES[0].values[0])
    with pytest.raises(ValueError, match="activation must be one of identity, relu, muting_relu, tanh, not 'sine'"):
        CorrelateMaxPool2d(forward.correlation, forward.pooling, "sine")
    with pytest.raises(ValueError, match="activation tanh is for float32"):
        CorrelateMaxPool2d(forward.correlation, forward.pooling, "tanh").make_node(*symbols_like(arrays), *windows)


MISFITS = [
    pytest.param(0, 2, (3,), "biases must hold a number for each", id="biases"),
    pytest.param(0, 0, (2, 3, 9, 8), "input has 3 channels but filters expect 4", id="channels"),
    pytest.param(0, 0, (2, 4, 3, 2), "ws spans 2 rows but the padded input has only 1", id="window"),
    pytest.param(1, 2, (2, 4, 9, 9), "2x4x9x9(:| do not come from)", id="maps"),
    pytest.param(1, 0, (4, 4, 5, 2), "output_grad is 2x4x7x7 but this convolution's output is 2x4x5x7", id="filters"),
    pytest.param(2, 0, (2, 4, 9, 9), "output_grad is 2x4x7x7 but this convolution's output is 2x4x7x8", id="images"),
]


@pytest.mark.parametrize(("which", "place", "shape", "sentence"), MISFITS)
def test_misfits_are_refused_when_the_graph_is_built_and_when_it_runs(which, place, shape, sentence):
    op, arrays, integers = three_passes(CASES[0].values[0])[which]
    arrays[place] = np.ones(shape)
    with pytest.raises(ValueError, match=sentence):
        op.make_node(*symbols_like(arrays, static=True), *integers)
    tensors = symbols_like(arrays)
    outputs = op.make_node(*tensors, *integers).outputs
    for mode in (PYTHON, "NUMBA"):
        with pytest.raises(ValueError, match=sentence):
            pytensor.function(tensors, outputs, mode=mode)(*arrays)
