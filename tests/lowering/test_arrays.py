"""JAX, MLX and torch compute what `reference` says, whatever the geometry."""

import numpy as np
import pytest
from hypothesis import given, settings

from pytensor_convnet import geometry, ops, reference
from tests.lowering.libraries import LIBRARIES, by_torch, run
from tests.ops.common import close
from tests.strategies import correlations, pools

random = np.random.default_rng(0)

CORRELATIONS = {
    # images, filters, stride, padding, dilation, groups, flip
    "plain": ((3, 2, 9, 8), (4, 2, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False),
    "strided": ((2, 3, 10, 9), (4, 3, 3, 2), (4, 3), ((0, 0), (0, 0)), (1, 1), 1, True),
    "padded on one side": ((2, 2, 7, 8), (3, 2, 3, 4), (2, 1), ((2, 0), (0, 3)), (1, 1), 1, True),
    "padded beyond the filter": ((2, 1, 4, 4), (2, 1, 2, 2), (3, 2), ((4, 3), (5, 5)), (1, 1), 1, False),
    "dilated": ((2, 2, 11, 9), (3, 2, 3, 3), (2, 1), ((1, 1), (2, 1)), (3, 2), 1, False),
    "grouped": ((2, 4, 6, 7), (6, 2, 3, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 2, True),
    "depthwise": ((2, 3, 6, 6), (6, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (2, 1), 3, False),
    "empty": ((0, 2, 6, 6), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, True),
}

NONE = ((0, 0), (0, 0))
POOLS = {
    # images, window, stride, padding, ignore_border
    "apart": ((3, 2, 8, 6), (2, 2), (2, 2), NONE, True),
    "overlapping": ((2, 17, 9, 10), (3, 3), (2, 2), NONE, True),
    "partial": ((2, 3, 8, 9), (3, 3), (2, 2), NONE, False),
    "padded": ((2, 3, 8, 9), (3, 3), (2, 1), ((1, 1), (1, 1)), True),
    "padded and partial": ((2, 3, 8, 9), (3, 3), (2, 3), ((1, 1), (1, 1)), False),
    "padded on one side": ((2, 2, 7, 6), (3, 2), (1, 2), ((2, 0), (0, 1)), True),
    "padded beyond half": ((2, 2, 7, 6), (4, 3), (3, 2), ((3, 3), (2, 2)), True),
    "with gaps": ((2, 2, 9, 9), (2, 1), (3, 4), NONE, False),
    "larger than images": ((2, 2, 3, 4), (5, 6), (2, 2), ((1, 2), (0, 0)), False),
    "whole": ((2, 2, 6, 5), (6, 5), (6, 5), NONE, True),
    "of many overlaps": ((2, 1, 11, 12), (9, 9), (1, 1), ((2, 2), (0, 0)), True),
    "empty": ((0, 2, 6, 6), (3, 3), (2, 2), NONE, True),
}

library_of = pytest.mark.parametrize("library", LIBRARIES)


def bound(dtype):
    return 1e-10 if dtype == "float64" else 2e-5


def check_correlation(library, images, filters, maps, window, taps, dtype, unshared):
    """All three passes are the reference's."""
    name = "locally_connected2d" if unshared else "correlate2d"
    forward = (ops.LocallyConnected2d if unshared else ops.Correlate2d)(*window)
    lengths = images.shape[2:]
    for op, tensors, integers, expected in [
        (forward, (images, filters), (), getattr(reference, name)(images, filters, *window)),
        (
            forward.partner("input_grad"), (filters, maps), lengths,
            getattr(reference, f"{name}_input_grad")(filters, maps, *lengths, *window),
        ),
        (
            forward.partner("filter_grad"), (images, maps), taps,
            getattr(reference, f"{name}_filter_grad")(images, maps, *taps, *window),
        ),
    ]:  # fmt: skip
        [result] = run(library, op, tensors, integers)
        close(result, expected, bound(dtype))


@library_of
@pytest.mark.parametrize("unshared", [False, True], ids=["shared", "unshared"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CORRELATIONS)
def test_correlations(library, case, dtype, unshared):
    image_shape, filter_shape, *window = CORRELATIONS[case]
    stride, padding, dilation, _, _ = window
    counts = [
        geometry.correlation_length(image_shape[i + 2], filter_shape[i + 2], stride[i], *padding[i], dilation[i])
        for i in range(2)
    ]
    map_shape = (image_shape[0], filter_shape[0], *counts)
    images, maps = (random.standard_normal(shape).astype(dtype) for shape in (image_shape, map_shape))
    shape = (filter_shape[0], *counts, *filter_shape[1:]) if unshared else filter_shape
    filters = random.standard_normal(shape).astype(dtype)
    check_correlation(library, images, filters, maps, window, filter_shape[2:], dtype, unshared)


@library_of
@settings(max_examples=8)
@given(case=correlations())
def test_drawn_correlations(library, case):
    check_correlation(library, case.images, case.filters, case.maps, case.window, case.taps, "float64", False)


def check_max_pool(library, images, windows, ignore_border):
    """Maxima, winners, and what is scattered and picked by them."""
    expected, winners = reference.max_pool2d(images, np.uint8, *windows, ignore_border)
    np.testing.assert_array_equal(run(library, ops.MaxPool2d(ignore_border), [images], windows), [expected, winners])
    [maxima] = run(library, ops.MaxPool2dMaxima(ignore_border), [images], windows)
    np.testing.assert_array_equal(maxima, expected)
    if images.dtype.kind == "f":
        maps, lengths = random.standard_normal(winners.shape).astype(images.dtype), images.shape[2:]
        [scattered] = run(library, ops.MaxPool2dGrad(), [winners, maps], (*lengths, *windows))
        close(scattered, reference.max_pool2d_grad(winners, maps, *lengths, *windows), bound(images.dtype))
        [picked] = run(library, ops.MaxPool2dGather(), [images, winners], windows)
        np.testing.assert_array_equal(picked, reference.max_pool2d_gather(images, winners, *windows))


@library_of
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint16", "bool"])
@pytest.mark.parametrize("case", POOLS)
def test_max_pools_with_ties(library, case, dtype):
    shape, *windows, ignore_border = POOLS[case]
    images = random.integers(0, 3, shape).astype(dtype)
    check_max_pool(library, images, windows, ignore_border)


@library_of
@pytest.mark.parametrize("case", POOLS)
def test_padding_never_wins_and_nan_does(library, case):
    shape, *windows, ignore_border = POOLS[case]
    lowest = np.full(shape, -np.inf, "float32")
    check_max_pool(library, lowest, windows, ignore_border)
    check_max_pool(library, np.full(shape, np.iinfo("int16").min, "int16"), windows, ignore_border)
    some = np.where(random.random(shape) < 0.3, np.nan, lowest)
    expected, winners = reference.max_pool2d(some, np.uint8, *windows, ignore_border)
    maxima, ours = run(library, ops.MaxPool2d(ignore_border), [some], windows)
    np.testing.assert_array_equal(maxima, expected)
    np.testing.assert_array_equal(ours, winners)


@library_of
@settings(max_examples=8)
@given(case=pools())
def test_drawn_max_pools(library, case):
    check_max_pool(library, case.images, case.windows, case.ignore_border)


@library_of
@pytest.mark.parametrize("mode", ["sum", "average_inc_pad", "average_exc_pad"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", POOLS)
def test_average_pools(library, case, dtype, mode):
    shape, *windows, ignore_border = POOLS[case]
    images = random.standard_normal(shape).astype(dtype)
    expected = reference.average_pool2d(images, *windows, ignore_border, mode)
    [averages] = run(library, ops.AveragePool2d(mode, ignore_border), [images], windows)
    close(averages, expected, bound(dtype))
    maps = random.standard_normal(expected.shape).astype(dtype)
    [spread] = run(library, ops.AveragePool2dGrad(mode, ignore_border), [maps], (*shape[2:], *windows))
    close(spread, reference.average_pool2d_grad(maps, *shape[2:], *windows, mode), bound(dtype))


@library_of
@pytest.mark.parametrize("case", POOLS)
def test_drawn_winners(library, case):
    shape, *windows, ignore_border = POOLS[case]
    images = random.standard_normal(shape) * (random.random(shape) < 0.7)
    images[:, :1, :2] = 0
    images[:, 1:, :1, :1] = np.nan
    images[:, 1:, -1:, -1:] = np.inf
    counts = reference.max_pool2d(images, np.uint8, *windows, ignore_border)[0].shape
    uniforms = random.random(counts)
    [winners] = run(library, ops.DrawWinners2d(), [images, uniforms], windows)
    np.testing.assert_array_equal(winners, reference.draw_winners2d(images, uniforms, np.uint8, *windows))


@library_of
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
def test_normalisation_across_maps(library, size, blocked):
    images, maps = random.standard_normal((2, 2, 7, 3, 4))
    norm = size, 0.3, 0.75, blocked
    for transposed in (False, True):
        [sums] = run(library, ops.CrossMapSum(size, blocked, transposed), [images])
        close(sums, reference.cross_map_sum(images, size, blocked, transposed))
    close(run(library, ops.CrossMapNorm(*norm), [images])[0], reference.cross_map_norm(images, *norm))
    [gradient] = run(library, ops.CrossMapNormGrad(*norm), [images, maps])
    close(gradient, reference.cross_map_norm_grad(images, maps, *norm))


@library_of
@pytest.mark.parametrize("dtypes", [["float32"], ["float32", "float64", "float32"]])
def test_the_mean_over_one_process_is_its_own(library, dtypes):
    tensors = [random.standard_normal((2, 3 + i)).astype(dtype) for i, dtype in enumerate(dtypes)]
    for mean, tensor in zip(run(library, ops.AllMean(), tensors), tensors, strict=True):
        np.testing.assert_array_equal(mean, tensor)


@library_of
def test_winners_of_large_windows_have_more_than_a_byte(library):
    images = random.standard_normal((2, 1, 20, 18))
    windows = (17, 17), (2, 1), NONE
    expected, winners = reference.max_pool2d(images, np.int64, *windows, True)
    np.testing.assert_array_equal(run(library, ops.MaxPool2d(), [images], windows), [expected, winners])
    [scattered] = run(library, ops.MaxPool2dGrad(), [winners, expected], (20, 18, *windows))
    close(scattered, reference.max_pool2d_grad(winners, expected, 20, 18, *windows))


def test_torch_names_the_dtype_that_it_cannot_compare():
    with pytest.raises(ValueError, match="input has dtype uint64, which torch cannot compare"):
        run(("torch", by_torch), ops.MaxPool2d(), [np.ones((1, 1, 4, 4), "uint64")], ((2, 2), (2, 2), NONE))
