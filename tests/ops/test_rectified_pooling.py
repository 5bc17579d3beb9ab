"""Average pooling of rectified maps as one step: values, derivatives, shapes, refusals, both linkers."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from hypothesis import given
from pytensor.gradient import verify_grad

from pytensor_convnet import reference
from pytensor_convnet.ops import AveragePool2d, RectifiedAveragePool2d, RectifiedAveragePool2dGrad
from pytensor_convnet.ops.pooling import AVERAGE_MODES
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
from tests.strategies import pools

CASES = [
    pytest.param(((2, 2), (2, 2), ((0, 0), (0, 0))), True, "sum", id="plain"),
    pytest.param(((3, 3), (2, 2), ((1, 1), (1, 1))), True, "average_inc_pad", id="overlapping-padded"),
    pytest.param(((3, 4), (2, 3), ((1, 0), (1, 1))), False, "average_exc_pad", id="partial"),
]
every_case = pytest.mark.parametrize(("windows", "ignore_border", "mode"), CASES)
every_pass = pytest.mark.parametrize("which", range(2), ids=["forward", "grad"])


def both_passes(windows, ignore_border, mode):
    """Each Op with arrays and integers that fit it; some biased pixels are exactly zero."""
    random = np.random.default_rng(0)
    images, biases = random.integers(-3, 4, (2, 3, 7, 8)) / 4 - 0.01, np.array([0.01, -0.24, 0.26])
    op = RectifiedAveragePool2d(mode, ignore_border)
    [pooled] = run(op, images, biases, *windows)
    maps = random.standard_normal(pooled.shape)
    grad = RectifiedAveragePool2dGrad(mode, ignore_border)
    return [(op, [images, biases], windows), (grad, [images, biases, maps], windows)]


@pytest.mark.parametrize("mode", AVERAGE_MODES)
@given(case=pools())
def test_values_agree_with_the_reference(mode, case):
    biases = np.linspace(-1, 1, case.images.shape[1])
    [maps] = run(RectifiedAveragePool2d(mode, case.ignore_border), case.images, biases, *case.windows)
    close(maps, reference.rectified_average_pool2d(case.images, biases, *case.windows, case.ignore_border, mode))
    grads = run(RectifiedAveragePool2dGrad(mode, case.ignore_border), case.images, biases, case.maps, *case.windows)
    expected = reference.rectified_average_pool2d_grad(case.images, biases, case.maps, *case.windows, mode)
    for found, wanted in zip(grads, expected, strict=True):
        close(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_case
def test_both_are_what_the_ops_that_they_join_give(windows, ignore_border, mode, dtype):
    (op, arrays, _), _ = both_passes(windows, ignore_border, mode)
    arrays = [array.astype(dtype) for array in arrays]
    tensors = symbols_like(arrays)
    images, biases = tensors
    joined = op(images, biases, *windows)
    apart = AveragePool2d(mode, ignore_border)(pt.maximum(images + biases[:, None, None], 0), *windows)
    ours, theirs = ([y, *pytensor.grad((y**2).sum(), tensors)] for y in (joined, apart))
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    for found, wanted in zip(*(pytensor.function(tensors, y, mode=PYTHON)(*arrays) for y in (ours, theirs))):
        assert found.dtype == dtype
        close(found, wanted, tolerance)


@pytest.mark.parametrize("mode", [PYTHON, "NUMBA"], ids=["python", "numba"])
def test_gradients_pass_at_zero_and_not_at_nan(mode):
    images = np.array([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 2.0]).reshape(1, 1, 2, 4)
    maps, biases = np.full((1, 1, 1, 2), 3.0), np.zeros(1)
    tensors = symbols_like([images, biases, maps])
    outputs = RectifiedAveragePool2dGrad("sum").make_node(*tensors, (2, 2), (2, 2), ((0, 0), (0, 0))).outputs
    images_grad, biases_grad = pytensor.function(tensors, outputs, mode=mode)(images, biases, maps)
    np.testing.assert_array_equal(images_grad, [[[[3, 3, 3, 0], [0, 3, 0, 3]]]])
    np.testing.assert_array_equal(biases_grad, [15])


@pytest.mark.parametrize("mode", [PYTHON, "NUMBA"], ids=["python", "numba"])
def test_a_pixel_that_is_nan_makes_its_windows_nan(mode):
    images, biases = np.zeros((1, 1, 4, 6)), np.full(1, -1.0)
    images[0, 0, 1, 2] = np.nan
    tensors = symbols_like([images, biases])
    pooled = RectifiedAveragePool2d()(*tensors, (2, 2), (2, 2), ((0, 0), (0, 0)))
    maps = pytensor.function(tensors, pooled, mode=mode)(images, biases)
    np.testing.assert_array_equal(maps, [[[[0, np.nan, 0], [0, 0, 0]]]])


@every_pass
@every_case
def test_numba_agrees_with_the_python_linker(windows, ignore_border, mode, which):
    op, arrays, integers = both_passes(windows, ignore_border, mode)[which]
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        tensors = symbols_like([array.astype(dtype) for array in arrays])
        outputs = op.make_node(*tensors, *integers).outputs
        functions = [pytensor.function(tensors, outputs, mode=mode) for mode in ("NUMBA", PYTHON)]
        for batch in (2, 0):
            values = [array[:batch] if array.ndim == 4 else array for array in arrays]
            ours, other = (function(*(value.astype(dtype) for value in values)) for function in functions)
            for result, expected in zip(ours, other, strict=True):
                assert result.dtype == expected.dtype
                close(result, expected, tolerance)


@every_case
def test_gradient_matches_finite_differences(windows, ignore_border, mode):
    (op, arrays, _), (grad, others, _) = both_passes(windows, ignore_border, mode)
    arrays = [array + 0.1 for array in arrays]  # no pixel at the kink

    def forward(images, biases):
        return op(images, biases, *windows)

    def gradient(maps):
        return pt.concatenate([x.flatten() for x in grad(*others[:2], maps, *windows)])

    verify_grad(forward, arrays, mode=PYTHON, rng=np.random.default_rng(0))
    verify_grad(gradient, others[2:], mode=PYTHON, rng=np.random.default_rng(0))


@every_case
def test_second_derivative_matches_finite_differences(windows, ignore_border, mode):
    (op, (images, biases), _), _ = both_passes(windows, ignore_border, mode)

    def gradients(*tensors):
        cost = (op(*tensors, *windows) ** 3).sum()
        return pt.concatenate([g.flatten() for g in pytensor.grad(cost, list(tensors))])

    arrays = [images[:1, :, :5, :5] / 2 + 0.1, biases]
    verify_grad(gradients, arrays, mode=PYTHON, rng=np.random.default_rng(0))


@every_case
def test_pushforward_matches_finite_differences(windows, ignore_border, mode):
    (op, arrays, _), (grad, others, _) = both_passes(windows, ignore_border, mode)
    check_pushforward(op, [array + 0.1 for array in arrays], windows)
    check_pushforward(grad, others, windows, linear=[2])


@every_pass
@every_case
def test_static_shapes_are_the_shapes_that_come_out(windows, ignore_border, mode, which):
    check_static_shapes(*both_passes(windows, ignore_border, mode)[which])


@every_pass
@every_case
def test_shapes_are_inferred_without_computing(windows, ignore_border, mode, which):
    check_infer_shape(*both_passes(windows, ignore_border, mode)[which])


@every_pass
def test_vectorize_graph_stacks_results(which):
    op, arrays, integers = both_passes(*CASES[1].values)[which]
    for batched in ((0,), range(len(arrays))):
        check_vectorized(op, arrays, integers, batched)


MISFITS = [
    pytest.param(0, 1, (2,), "biases must hold a number for each", id="biases"),
    pytest.param(1, 1, (4,), "biases must hold a number for each", id="biases of the gradient"),
    pytest.param(0, 0, (2, 3, 1, 8), "ws spans 2 rows but the padded input has only 1", id="window"),
    pytest.param(1, 2, (2, 3, 9, 9), "pooled maps of 2x3x9x9 do not come from", id="maps"),
]


@pytest.mark.parametrize(("which", "place", "shape", "sentence"), MISFITS)
def test_misfits_are_refused_when_the_graph_is_built_and_when_it_runs(which, place, shape, sentence):
    op, arrays, integers = both_passes(*CASES[0].values)[which]
    arrays[place] = np.ones(shape)
    with pytest.raises(ValueError, match=sentence):
        op.make_node(*symbols_like(arrays, static=True), *integers)
    tensors = symbols_like(arrays)
    outputs = op.make_node(*tensors, *integers).outputs
    for mode in (PYTHON, "NUMBA"):
        with pytest.raises(ValueError, match=sentence):
            pytensor.function(tensors, outputs, mode=mode)(*arrays)


def test_other_arguments_are_refused():
    windows = (2, 2), (2, 2), ((0, 0), (0, 0))
    with pytest.raises(ValueError, match="mode must be one of"):
        RectifiedAveragePool2d("max")
    with pytest.raises(ValueError, match="biases must have 1 axes"):
        RectifiedAveragePool2d()(pt.tensor4(), pt.matrix(), *windows)
    with pytest.raises(ValueError, match="output_grad must have 4 axes"):
        RectifiedAveragePool2dGrad()(pt.tensor4(), pt.vector(), pt.tensor3(), *windows)
