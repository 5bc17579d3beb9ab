"""The gradients of biased maps under tanh as one step: values, derivatives, shapes, refusals, both linkers."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet import reference
from pytensor_convnet.ops import TanhGrad
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

random = np.random.default_rng(0)
ARRAYS = [np.tanh(random.standard_normal((2, 3, 4, 5))), random.standard_normal((2, 3, 4, 5))]


def test_values_are_the_derivative_of_tanh_and_its_sums():
    tensors = symbols_like(ARRAYS)
    maps, biases = pt.dtensor4(), pt.dvector()
    tanhs = pt.tanh(maps + biases[:, None, None])
    expected = pytensor.grad(None, [maps, biases], known_grads={tanhs: tensors[1]})
    values = np.arctanh(ARRAYS[0]), np.zeros(3)
    wanted = pytensor.function([maps, biases, tensors[1]], expected, mode=PYTHON)(*values, ARRAYS[1])
    for found, other, defined in zip(run(TanhGrad(), *ARRAYS), wanted, reference.tanh_grad(*ARRAYS), strict=True):
        close(found, other)
        close(found, defined)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("batch", [2, 0])
def test_numba_agrees_with_the_python_linker(dtype, tolerance, batch):
    tensors = symbols_like([array.astype(dtype) for array in ARRAYS])
    outputs = TanhGrad()(*tensors)
    ours, other = (
        pytensor.function(tensors, outputs, mode=mode)(*(array[:batch].astype(dtype) for array in ARRAYS))
        for mode in ("NUMBA", PYTHON)
    )
    for found, wanted in zip(ours, other, strict=True):
        assert found.dtype == wanted.dtype == dtype
        close(found, wanted, tolerance)


@pytest.mark.parametrize("output", [0, 1], ids=["maps", "biases"])
def test_gradient_matches_finite_differences(output):
    verify_grad(lambda *tensors: TanhGrad()(*tensors)[output], ARRAYS, mode=PYTHON, rng=np.random.default_rng(0))


@pytest.mark.parametrize("linear", [None, [0], [1]], ids=["both", "tanhs", "gradient"])
def test_pushforward_matches_finite_differences(linear):
    check_pushforward(TanhGrad(), ARRAYS, linear=linear)


def test_static_shapes_are_the_shapes_that_come_out():
    check_static_shapes(TanhGrad(), ARRAYS)


def test_shapes_are_inferred_without_computing():
    check_infer_shape(TanhGrad(), ARRAYS)


@pytest.mark.parametrize("batched", [(0,), (0, 1)], ids=["tanhs", "both"])
def test_vectorize_graph_stacks_results(batched):
    check_vectorized(TanhGrad(), ARRAYS, batched=batched)


def test_shapes_that_differ_are_refused_when_the_graph_is_built_and_when_it_runs():
    arrays = [ARRAYS[0], ARRAYS[1][:, :, :2]]
    with pytest.raises(ValueError, match="there is a gradient for each number"):
        TanhGrad()(*symbols_like(arrays, static=True))
    tensors = symbols_like(arrays)
    for mode in (PYTHON, "NUMBA"):
        function = pytensor.function(tensors, TanhGrad()(*tensors), mode=mode)
        with pytest.raises(ValueError, match="there is a gradient for each number"):
            function(*arrays)


def test_other_tensors_are_refused():
    with pytest.raises(ValueError, match="tanhs must have 4 axes"):
        TanhGrad()(pt.matrix(), pt.tensor4())
