"""The pooling kernels where vectors make a difference: rows about a vector long, any step, neighbours in memory."""

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from pytensor_convnet import reference
from pytensor_convnet.kernels.cpu import (
    MODES,
    average_pool2d,
    average_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
    max_pool2d_maxima,
)
from pytensor_convnet.kernels.cpu.average_pooling import average_windows
from pytensor_convnet.kernels.cpu.average_pooling_grad import no_muting, spread_averages
from pytensor_convnet.kernels.cpu.jit import any_layout
from pytensor_convnet.kernels.cpu.max_pooling import _pool_floats
from pytensor_convnet.kernels.cpu.max_pooling_grad import _spread_floats
from pytensor_convnet.kernels.cpu.maxima import _maxima_of_floats
from pytensor_convnet.kernels.cpu.pool_checks import check_pool
from tests.strategies import with_layout

ROOT = Path(__file__).parents[3]
FLOATS = ["float32", "float64"]
MODE = "average_exc_pad"

WINDOWS = [
    pytest.param((window, stride, padding), id=f"window{window}-stride{stride}-padding{padding}")
    for window, stride, padding in [
        ((1, 1), (1, 1), ((0, 0), (0, 0))),
        ((2, 2), (2, 2), ((0, 0), (0, 0))),
        ((3, 3), (1, 1), ((1, 1), (1, 1))),
        ((3, 3), (2, 2), ((1, 1), (1, 1))),
        ((3, 4), (1, 2), ((2, 0), (2, 1))),
        ((2, 5), (3, 3), ((1, 0), (3, 4))),
        ((4, 2), (3, 5), ((0, 3), (1, 0))),
        ((2, 19), (1, 4), ((1, 1), (18, 7))),
    ]
]
COLUMNS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 70]


def images_of(*shape, dtype):
    """Images of few different values, some of them special."""
    random = np.random.default_rng(sum(shape))
    images = random.integers(-3, 4, shape).astype(dtype)
    images[random.random(shape) < 0.05] = -np.inf
    images[random.random(shape) < 0.02] = np.nan
    return images


def check_everything(images, windows, layout="contiguous", winners_dtype=np.uint8):
    """Compare every pooling kernel with the reference."""
    expected = reference.max_pool2d(images, winners_dtype, *windows, False)
    actual = max_pool2d(with_layout(images, layout), winners_dtype, *windows, False)
    for one, other in zip(actual, expected):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(max_pool2d_maxima(with_layout(images, layout), *windows, False), expected[0])

    images, tolerance = np.nan_to_num(images, neginf=-9), 1e-5 if images.itemsize == 4 else 1e-12
    average = average_pool2d(with_layout(images, layout), *windows, False, MODES[MODE])
    np.testing.assert_allclose(average, reference.average_pool2d(images, *windows, False, MODE), atol=tolerance)

    maps = np.random.default_rng(0).standard_normal(average.shape).astype(images.dtype)
    placed, lengths, winners = with_layout(maps, layout), images.shape[2:], expected[1]
    grad = max_pool2d_grad(winners, placed, *lengths, *windows)
    np.testing.assert_allclose(grad, reference.max_pool2d_grad(winners, maps, *lengths, *windows), atol=tolerance)
    grad = average_pool2d_grad(placed, *lengths, *windows, MODES[MODE])
    expected = reference.average_pool2d_grad(maps, *lengths, *windows, MODE)
    np.testing.assert_allclose(grad, expected, atol=tolerance)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_about_as_long_as_vectors(dtype, windows):
    for columns in COLUMNS:
        check_everything(images_of(2, 1, 6, columns, dtype=dtype), windows)


@pytest.mark.parametrize(("columns", "dtype"), [(16, "float32"), (15, "float32"), (8, "float64")])
@pytest.mark.parametrize("windows", WINDOWS)
def test_planes_that_share_a_vector(windows, columns, dtype):
    check_everything(images_of(2, 37, 11, columns, dtype=dtype), windows)


@pytest.mark.parametrize("windows", WINDOWS)
def test_planes_of_a_larger_array(windows):
    images = images_of(3, 9, 13, 40, dtype="float32")[1:, ::2, 2:, 3:19]
    maxima, winners = max_pool2d(images, np.uint8, *windows, False)
    expected = reference.max_pool2d(images, np.uint8, *windows, False)
    np.testing.assert_array_equal(maxima, expected[0])
    np.testing.assert_array_equal(winners, expected[1])


@pytest.mark.parametrize("layout", ["channels_last", "batch_last", "spaced", "reversed"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts_of_more_planes_than_a_vector_has_lanes(dtype, layout):
    for windows in (parameters.values[0] for parameters in WINDOWS):
        check_everything(images_of(19, 21, 5, 18, dtype=dtype), windows, layout)


@pytest.mark.parametrize("layout", ["contiguous", "batch_last"])
def test_winners_of_eight_bytes(layout):
    check_everything(images_of(17, 2, 9, 20, dtype="float32"), ((3, 3), (2, 2), ((1, 1), (1, 1))), layout, np.int64)


@pytest.mark.parametrize("shape", [(1, 1, 150, 140), (2, 1, 300, 9), (1, 1, 4, 5000)])
def test_planes_of_several_bands(shape):
    for windows in (parameters.values[0] for parameters in WINDOWS):
        check_everything(images_of(*shape, dtype="float32"), windows)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_averages_of_equal_numbers_are_exact(dtype, window, stride, padding):
    images = np.ones((1, 40, 7, 19), dtype) * np.arange(40, dtype=dtype)[:, None, None]
    windows = (window, window), (stride, stride), ((padding, padding), (padding, padding))
    averages = average_pool2d(images, *windows, True, MODES["average_exc_pad"])
    np.testing.assert_array_equal(averages, images[:, :, : averages.shape[2], : averages.shape[3]])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool"])
def test_maxima_of_integers(dtype):
    images = np.random.default_rng(0).integers(0, 100, (2, 3, 9, 8)).astype(dtype)
    windows = (3, 2), (2, 1), ((1, 1), (1, 0))
    expected, _ = reference.max_pool2d(images, np.uint8, *windows, False)
    actual = max_pool2d_maxima(images, *windows, False)
    assert actual.dtype == images.dtype
    np.testing.assert_array_equal(actual, expected)


# ------------------------------------------------------------------------------------------- surroundings


def within(shape, dtype, surroundings):
    """A contiguous array in the middle of a buffer full of ``surroundings``, and the buffer."""
    size, margin = int(np.prod(shape)), 1000
    buffer = np.full(size + 2 * margin, surroundings, dtype)
    return buffer[margin : margin + size].reshape(shape), buffer


def untouched(array, buffer, surroundings):
    """Whether the surroundings of ``array`` are what they were."""
    margin = (buffer.size - array.size) // 2
    ends = np.concatenate([buffer[:margin], buffer[-margin:]])
    return np.array_equal(ends, np.full_like(ends, surroundings), equal_nan=ends.dtype.kind == "f")


@pytest.mark.parametrize("columns", [3, 12, 16, 21, 33])
@pytest.mark.parametrize("windows", WINDOWS)
def test_nothing_outside_is_read_that_matters(windows, columns):
    images, _ = within((2, 3, 7, columns), "float32", np.nan)
    images[:] = np.random.default_rng(0).standard_normal(images.shape)
    check_everything(images, windows)


@numba.njit
def fill_outputs(
    images, maxima, winners, alone, averages, maps, grads, spread, heights, widths, window, stride, padding
):
    windows, no_biases = check_pool(images.shape, window, stride, padding, False), np.empty(0, images.dtype)
    _pool_floats(1, any_layout(images), maxima, winners, windows)
    _maxima_of_floats(1, any_layout(images), alone, windows)
    average_windows(1, any_layout(images), no_biases, averages, heights, widths, windows)
    _spread_floats(1, any_layout(maps), any_layout(winners), grads, np.full(1, -1), windows)
    spread_averages(1, any_layout(maps), spread, no_muting(maps), heights, widths, windows)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "batch_last"])
def test_nothing_outside_is_written(layout):
    for windows in (parameters.values[0] for parameters in WINDOWS):
        for columns in (3, 16, 21):
            images = np.random.default_rng(0).standard_normal((16, 16, 5, columns)).astype("float32")
            shape = reference.max_pool2d(images, np.uint8, *windows, False)[0].shape
            maps = np.ones(shape, "float32")
            dtypes = {"maxima": "f4", "winners": "u1", "alone": "f4", "averages": "f4"}
            outputs = {name: within(shape, dtype, 77) for name, dtype in dtypes.items()}
            outputs |= {name: within(images.shape, "f4", 77) for name in ("grads", "spread")}
            ones = np.ones(max(shape) + 16, "float32")
            arrays = {name: array for name, (array, _) in outputs.items()}
            grads, spread = arrays.pop("grads"), arrays.pop("spread")
            placed = with_layout(images, layout), with_layout(maps, layout)
            fill_outputs(placed[0], *arrays.values(), placed[1], grads, spread, ones, ones, *windows)
            for name, (array, buffer) in outputs.items():
                assert untouched(array, buffer, 77), (name, windows, columns)


GUARDED = """
import numpy as np
from pytensor_convnet.kernels import cpu
from tests.kernels.cpu.guards import guarded

for columns in (1, 5, 15, 16, 17, 24, 32, 33):
    for window, stride, padding in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (4, 3, 0)]:
        arguments = (window, window), (stride, stride), ((padding, padding), (padding, padding))
        for axes in ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0)):
            images = np.random.default_rng(0).standard_normal((17, 18, 3, columns)).astype("f4")
            maxima, winners = cpu.max_pool2d(images, np.uint8, *arguments, False)
            averages = cpu.average_pool2d(images, *arguments, False, 2)
            grads = cpu.max_pool2d_grad(winners, maxima, 3, columns, *arguments)
            spread = cpu.average_pool2d_grad(maxima, 3, columns, *arguments, 2)
            biases = np.zeros(18, "f4")
            rectified = cpu.rectified_average_pool2d(images, biases, *arguments, False, 2)
            muted, _ = cpu.rectified_average_pool2d_grad(images, biases, maxima, *arguments, 2)
            for at_end in (False, True):
                x, g = guarded(images, at_end, axes), guarded(maxima, at_end, axes)
                w = guarded(winners, at_end)
                for actual, expected in [
                    (cpu.max_pool2d(x, np.uint8, *arguments, False)[1], winners),
                    (cpu.max_pool2d_maxima(x, *arguments, False), maxima),
                    (cpu.average_pool2d(x, *arguments, False, 2), averages),
                    (cpu.max_pool2d_grad(w, g, 3, columns, *arguments), grads),
                    (cpu.average_pool2d_grad(g, 3, columns, *arguments, 2), spread),
                    (cpu.rectified_average_pool2d(x, biases, *arguments, False, 2), rectified),
                    (cpu.rectified_average_pool2d_grad(x, biases, g, *arguments, 2)[0], muted),
                ]:
                    np.testing.assert_allclose(actual, expected, rtol=1e-6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory as Linux does")
def test_nothing_beyond_memory_is_read():
    run = subprocess.run([sys.executable, "-c", GUARDED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr or "it read beyond its arrays"
