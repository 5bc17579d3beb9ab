"""The gradients of biased maps under tanh, against the reference: planes of all sizes, layouts, threads."""

import numba
import numpy as np
import pytest

from pytensor_convnet import reference
from pytensor_convnet.kernels.cpu import tanh_grad
from tests.strategies import LAYOUTS, with_layout

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}


def check(tanhs, gradient):
    tolerance = TOLERANCE[str(tanhs.dtype)]
    for found, wanted in zip(tanh_grad(tanhs, gradient), reference.tanh_grad(tanhs, gradient), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * max(1, abs(wanted).max(initial=0)))


def drawn(shape, dtype):
    random = np.random.default_rng(0)
    return np.tanh(random.standard_normal(shape)).astype(dtype), random.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(3, 4, 1, 1), (2, 3, 3, 5), (2, 3, 4, 4), (5, 2, 9, 7), (70, 20, 12, 12)])
def test_planes_about_as_large_as_vectors_and_larger(shape, dtype):
    check(*drawn(shape, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    tanhs, gradient = drawn((3, 4, 5, 6), "float32")
    check(with_layout(tanhs, layout), gradient)
    check(tanhs, with_layout(gradient, layout))


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)])
def test_empty_tensors(shape):
    check(*drawn(shape, "float32"))


def test_sums_have_64_bits():
    gradient = np.random.default_rng(0).random((64, 1, 64, 64), dtype="float32")
    _, total = tanh_grad(np.zeros_like(gradient), gradient)
    assert total[0] == np.float32(gradient.sum(dtype=np.float64))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    tanhs, gradient = drawn((70, 20, 12, 12), dtype)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            results.append(tanh_grad(tanhs, gradient))
    finally:
        numba.set_num_threads(before)
    for one, several in zip(*results):
        np.testing.assert_array_equal(one, several)
