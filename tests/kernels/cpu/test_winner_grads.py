"""Sums over winners are the gradients of the maps that the winners scatter, whether or not they would be chosen."""

import numba
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import correlation_length
from pytensor_convnet.kernels.cpu.filter_packing import split_groups
from pytensor_convnet.kernels.cpu.jit import any_layout
from pytensor_convnet.kernels.cpu.pool_checks import check_pooled_numbers, pool_numbers
from pytensor_convnet.kernels.cpu.winner_filter_grad import filter_grad_of_winners
from pytensor_convnet.kernels.cpu.winner_input_grad import input_grad_of_winners
from pytensor_convnet.kernels.cpu.winner_planning import filter_grad_pays, input_grad_pays
from tests.kernels.cpu.test_conv_pool import FLOATS, close, fused

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))


@numba.njit
def windows_of(map_shape, pooled_shape, window, stride, padding):
    return check_pooled_numbers(map_shape, pooled_shape, pool_numbers(window, stride, padding))


@numba.njit
def filter_grad(images, winners, maps, gradient, windows, stride, padding, dilation, groups):
    return filter_grad_of_winners(
        any_layout(images), any_layout(winners), any_layout(maps), gradient, windows, stride, padding, dilation, groups
    )


@numba.njit
def input_grad(filters, winners, maps, images, windows, stride, padding, dilation, groups):
    grouped = split_groups(any_layout(filters), groups)
    return input_grad_of_winners(
        grouped, any_layout(winners), any_layout(maps), images, windows, stride, padding, dilation
    )


@numba.njit
def pays(images, filters, windows, stride, padding, dilation, groups, item_bytes):
    slides = images, filters, windows, stride, padding, dilation, groups, item_bytes
    return filter_grad_pays(*slides), input_grad_pays(*slides)


def check(images, filters, winners, maps, map_lengths, slides, windows):
    """Compare both gradients with the reference's, for filters that are not flipped."""
    maps, winners = np.ascontiguousarray(maps), np.ascontiguousarray(winners)
    numbers = windows_of((*winners.shape[:2], *map_lengths), winners.shape, *windows)
    scattered = reference.max_pool2d_grad(winners, maps, *map_lengths, *windows)
    by_filters, by_images = np.full(filters.shape, np.nan, maps.dtype), np.full(images.shape, np.nan, maps.dtype)
    assert filter_grad(images, winners, maps, by_filters[:, :, ::1, ::1], numbers, *slides) == 0
    assert input_grad(filters, winners, maps, by_images, numbers, *slides) == 0
    close(by_filters, reference.correlate2d_filter_grad(images, scattered, *filters.shape[2:], *slides, False))
    close(by_images, reference.correlate2d_input_grad(filters, scattered, *images.shape[2:], *slides, False))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_any_geometry(dtype, data):
    case, windows, _, winners, maps = data.draw(fused(dtype))
    assume(case.dilation[1] == 1 and case.images.size > 0)
    *slides, _ = case.window
    check(case.images, case.filters, winners, maps, case.maps.shape[2:], slides, windows)


SHAPES = {
    "one channel, rows joined": ((5, 1, 28, 28), (20, 1, 5, 5), NONE, (2, 2)),
    "a block and a rest": ((5, 20, 12, 12), (7, 20, 5, 5), NONE, (2, 2)),
    "overlapping windows": ((5, 3, 20, 20), (9, 3, 5, 5), ONE, (3, 2)),
    "two whole blocks": ((3, 32, 9, 10), (5, 32, 3, 3), ONE, (2, 2)),
    "more vectors than a register block has": ((2, 16, 14, 30), (3, 16, 2, 11), NONE, (2, 2)),
    "more rows than a register block has": ((2, 2, 30, 14), (3, 2, 11, 2), NONE, (2, 2)),
    "bands of a large image": ((2, 16, 70, 66), (3, 16, 3, 3), ONE, (2, 2)),
    "many filters": ((2, 2, 12, 12), (700, 2, 3, 3), NONE, (3, 3)),
}


def drawn(name, dtype):
    """Arrays of `SHAPES`, and how the filters and windows slide."""
    image_shape, filter_shape, padding, (window, stride) = SHAPES[name]
    random = np.random.default_rng(0)
    images, filters = (random.standard_normal(shape).astype(dtype) for shape in (image_shape, filter_shape))
    lengths = [correlation_length(n, k, 1, *p, 1) for n, k, p in zip(image_shape[2:], filter_shape[2:], padding)]
    maps = random.standard_normal((image_shape[0], filter_shape[0], *lengths)).astype(dtype)
    windows = (window, window), (stride, stride), NONE
    maxima, winners = reference.max_pool2d(maps, np.uint8, *windows, True)
    return images, filters, winners, maxima, lengths, ((1, 1), padding, (1, 1), 1), windows


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_patches(name, dtype):
    check(*drawn(name, dtype))


def test_results_do_not_depend_on_the_number_of_threads():
    images, filters, winners, maxima, lengths, slides, windows = drawn("a block and a rest", "float32")
    images, winners, maxima = (np.tile(array, (20, 1, 1, 1)) for array in (images, winners, maxima))
    numbers = windows_of((*winners.shape[:2], *lengths), winners.shape, *windows)
    allowed, results = numba.get_num_threads(), []
    try:
        for threads in {1, allowed}:
            numba.set_num_threads(threads)
            by_filters, by_images = np.empty_like(filters), np.empty_like(images)
            filter_grad(images, winners, maxima, by_filters[:, :, ::1, ::1], numbers, *slides)
            input_grad(filters, winners, maxima, by_images, numbers, *slides)
            results.append((by_filters.tobytes(), by_images.tobytes()))
    finally:
        numba.set_num_threads(allowed)
    assert results[0] == results[-1]


@pytest.mark.parametrize("winner", [4, 255])
def test_winners_that_are_no_taps_are_counted(winner):
    images, filters, winners, maxima, lengths, slides, windows = drawn("two whole blocks", "float32")
    winners[1, 2, 3, 1] = winner
    numbers = windows_of((*winners.shape[:2], *lengths), winners.shape, *windows)
    assert filter_grad(images, winners, maxima, np.empty_like(filters)[:, :, ::1, ::1], numbers, *slides) > 0
    assert input_grad(filters, winners, maxima, np.empty_like(images), numbers, *slides) > 0


def test_winners_on_padding_are_counted():
    images, filters, winners, maxima, *_ = drawn("overlapping windows", "float32")
    windows = (3, 3), (2, 2), ONE
    winners[0, 0, 0, 0] = 1  # above the first row
    lengths = [2 * (n - 1) + 1 for n in winners.shape[2:]]
    images = np.ascontiguousarray(images[:, :, : lengths[0] + 2, : lengths[1] + 2])
    numbers = windows_of((*winners.shape[:2], *lengths), winners.shape, *windows)
    slides = (1, 1), ONE, (1, 1), 1
    assert filter_grad(images, winners, maxima, np.empty_like(filters)[:, :, ::1, ::1], numbers, *slides) > 0
    assert input_grad(filters, winners, maxima, np.empty_like(images), numbers, *slides) > 0


def test_sums_over_winners_are_chosen_where_few_pixels_win():
    lenet = (500, 20, 12, 12), (50, 20, 5, 5)
    sliding = windows_of((500, 50, 8, 8), (500, 50, 8, 8), (3, 3), (1, 1), ONE)
    apart = windows_of((500, 50, 8, 8), (500, 50, 4, 4), (2, 2), (2, 2), NONE)
    assert pays(*lenet, apart, (1, 1), NONE, (1, 1), 1, 4) == (True, True)
    assert pays(*lenet, sliding, (1, 1), NONE, (1, 1), 1, 4) == (False, False)


def test_dilated_columns_are_summed_over_pixels():
    windows = windows_of((500, 50, 8, 4), (500, 50, 4, 2), (2, 2), (2, 2), NONE)
    assert pays((500, 20, 12, 12), (50, 20, 5, 5), windows, (1, 1), NONE, (1, 2), 1, 4) == (False, False)
