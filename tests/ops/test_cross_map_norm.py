"""Normalisation across maps: values, derivatives of first and second order, shapes, refusals."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from pytensor_convnet import reference
from pytensor_convnet.ops import CrossMapNorm, CrossMapNormGrad, CrossMapSum
from tests.ops.common import (
    PYTHON,
    check_infer_shape,
    check_pushforward,
    check_static_shapes,
    check_vectorized,
    close,
    run,
)

random = np.random.default_rng(0)
SETTINGS = [
    pytest.param((5, 0.5, 0.75, False), id="odd"),
    pytest.param((4, 0.3, 1.3, False), id="even-and-any-power"),
    pytest.param((3, 0.7, 0.5, True), id="blocked"),
    pytest.param((20, 0.2, 2.0, False), id="all-maps"),
]
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def images(shape=(2, 7, 3, 4)):
    return random.standard_normal(shape)


def all_ops(setting):
    """Each Op with arrays that fit it."""
    size, _, _, blocked = setting
    return {
        "norm": (CrossMapNorm(*setting), [images()]),
        "grad": (CrossMapNormGrad(*setting), [images(), images()]),
        "sum": (CrossMapSum(size, blocked), [images()]),
        "adjoint": (CrossMapSum(size, blocked, True), [images()]),
    }


every_op = pytest.mark.parametrize("name", ["norm", "grad", "sum", "adjoint"])


def test_neighbours_are_those_around_a_map_or_those_of_its_block():
    around = reference.neighbours(5, 3, blocked=False)
    np.testing.assert_array_equal(np.flatnonzero(around[0]), [0, 1])
    np.testing.assert_array_equal(np.flatnonzero(around[2]), [1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(reference.neighbours(5, 4, blocked=False)[2]), [0, 1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(reference.neighbours(5, 3, blocked=True)[1]), [0, 1, 2])
    np.testing.assert_array_equal(np.flatnonzero(reference.neighbours(5, 3, blocked=True)[4]), [3, 4])


@every_setting
def test_values_are_the_references(setting):
    size, _, _, blocked = setting
    (norm, [x]), (grad, [y, maps]), (total, [z]), (adjoint, _) = all_ops(setting).values()
    close(run(norm, x)[0], reference.cross_map_norm(x, *setting))
    close(run(grad, y, maps)[0], reference.cross_map_norm_grad(y, maps, *setting))
    close(run(total, z)[0], reference.cross_map_sum(z, size, blocked, False))
    close(run(adjoint, z)[0], reference.cross_map_sum(z, size, blocked, True))


@every_setting
def test_gradients_match_finite_differences(setting):
    verify_grad(CrossMapNorm(*setting), [images((1, 7, 2, 3))], mode=PYTHON, rng=np.random.default_rng(0))


@every_setting
def test_second_derivatives_match_finite_differences(setting):
    values = [images((1, 6, 2, 2)), images((1, 6, 2, 2))]
    verify_grad(CrossMapNormGrad(*setting), values, mode=PYTHON, rng=np.random.default_rng(0))


def test_third_derivatives_match_finite_differences():
    def hessian_product(x, direction):
        gradient = pytensor.grad((CrossMapNorm(3, 0.4, 0.75)(x) ** 2).sum(), x)
        return pytensor.grad((gradient * direction).sum(), x)

    values = [images((1, 4, 1, 2)), images((1, 4, 1, 2))]
    verify_grad(hessian_product, values, mode=PYTHON, rng=np.random.default_rng(0))


@every_op
@every_setting
def test_what_every_op_promises(setting, name):
    op, arrays = all_ops(setting)[name]
    check_pushforward(op, arrays)
    check_static_shapes(op, arrays)
    check_infer_shape(op, arrays)
    check_vectorized(op, arrays, (), range(len(arrays)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_numba_backend_agrees(dtype):
    x = pt.tensor4("x", dtype=dtype)
    cost = (CrossMapNorm(5, 0.5, 0.75)(x) ** 3).sum()
    gradient = pytensor.grad(cost, x)
    outputs = [cost, gradient, pytensor.grad((gradient**2).sum(), x)]
    value = images((3, 7, 5, 6)).astype(dtype)
    ours, other = (pytensor.function([x], outputs, mode=mode)(value) for mode in ("NUMBA", PYTHON))
    for one, two in zip(ours, other, strict=True):
        assert one.dtype == dtype
        close(one, two, 1e-10 if dtype == "float64" else 1e-4)


def test_energies_are_not_lost_beside_larger_ones():
    x = np.zeros((1, 9, 1, 1), "float32")
    x[0, :, 0, 0] = [1e4, 0, 0, 0, 1e-3, 0, 0, 0, 0]
    close(run(CrossMapNorm(3, 1.0, 1.0), x)[0], reference.cross_map_norm(x.astype("float64"), 3, 1.0, 1.0, False), 1e-6)


REFUSED = {
    "size": (lambda: CrossMapNorm(0, 1.0, 1.0), "size must be at least 1"),
    "scale": (lambda: CrossMapNorm(3, np.inf, 1.0), "scale must be a finite number"),
    "power": (lambda: CrossMapNorm(3, 1.0, "much"), "power must be a finite number, got 'much'"),
    "axes": (lambda: CrossMapNorm(3, 1.0, 1.0)(pt.tensor3()), "input must have 4 axes"),
    "static": (
        lambda: CrossMapNormGrad(3, 1.0, 1.0)(np.ones((1, 2, 3, 4)), np.ones((1, 2, 3, 5))),
        "output_grad is 1x2x3x5 but input is 1x2x3x4",
    ),
    "run-time": (
        lambda: gradient_at_run_time(np.ones((1, 2, 3, 4)), np.ones((1, 2, 3, 5))),
        "output_grad is 1x2x3x5 but input is 1x2x3x4",
    ),
}


def gradient_at_run_time(*arrays):
    tensors = [pt.tensor4(dtype="float64") for _ in arrays]
    return pytensor.function(tensors, CrossMapNormGrad(3, 1.0, 1.0)(*tensors), mode=PYTHON)(*arrays)


@pytest.mark.parametrize("name", REFUSED)
def test_misuse_is_told_in_a_sentence(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        build()
