"""The CPU pooling kernels compute what the reference defines, and refuse what does not fit."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import ShapeError
from pytensor_convnet.kernels.cpu import pool_checks
from pytensor_convnet.kernels.cpu.average_pooling import MODES, average_pool2d
from pytensor_convnet.kernels.cpu.average_pooling_grad import average_pool2d_grad
from pytensor_convnet.kernels.cpu.max_pooling import max_pool2d
from pytensor_convnet.kernels.cpu.max_pooling_grad import max_pool2d_gather, max_pool2d_grad
from pytensor_convnet.kernels.cpu.stages import STREAMED_BYTES
from tests.strategies import LAYOUTS, pools, with_layout

FLOATS = ["float32", "float64"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
NO_PADDING = ((0, 0), (0, 0))


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE[actual.dtype.name], rtol=0)


def same(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def check_max_pool(images, *arguments):
    for actual, expected in zip(max_pool2d(images, *arguments), reference.max_pool2d(images, *arguments)):
        same(actual, expected)


# ------------------------------------------------------------------------------------ any geometry


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_max_pool(dtype, data):
    case = data.draw(pools(dtype=dtype))
    check_max_pool(case.images, np.uint8, *case.windows, case.ignore_border)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_max_pool_grad(dtype, data):
    case = data.draw(pools(dtype=dtype))
    _, winners = reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)
    arguments = winners, case.maps, *case.rows_and_columns, *case.windows
    close(max_pool2d_grad(*arguments), reference.max_pool2d_grad(*arguments))


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_max_pool_gather(dtype, data):
    case = data.draw(pools(dtype=dtype))
    _, winners = reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)
    arguments = case.images, winners, *case.windows
    same(max_pool2d_gather(*arguments), reference.max_pool2d_gather(*arguments))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_average_pool(dtype, mode, data):
    case = data.draw(pools(dtype=dtype))
    arguments = case.images, *case.windows, case.ignore_border
    close(average_pool2d(*arguments, MODES[mode]), reference.average_pool2d(*arguments, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_average_pool_grad(dtype, mode, data):
    case = data.draw(pools(dtype=dtype))
    arguments = case.maps, *case.rows_and_columns, *case.windows
    close(average_pool2d_grad(*arguments, MODES[mode]), reference.average_pool2d_grad(*arguments, mode))


# --------------------------------------------------------------------------------- special geometry

# The rows of an image of these lengths are cut into several strips, with the window's overhang between them.
BANDED = [
    ((1, 1, 70, 90), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((1, 2, 90, 70), (5, 4), (2, 3), ((2, 0), (0, 3))),
    ((1, 1, 3, 4105), (2, 3), (1, 2), NO_PADDING),
]
# Small planes are put into one strip, the last of which is not full.
STACKED = [
    ((301, 3, 4, 4), (2, 2), (2, 2), NO_PADDING),
    ((50, 7, 9, 6), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((1, 700, 7, 7), (7, 7), (7, 7), NO_PADDING),
]
GAPS = [((2, 2, 11, 13), (1, 2), (3, 4), NO_PADDING)]


@pytest.mark.parametrize(("shape", "window", "stride", "padding"), BANDED + STACKED + GAPS)
def test_max_pool_over_many_strips(shape, window, stride, padding):
    check_max_pool(random(*shape, dtype="float32"), np.uint8, window, stride, padding, False)


@pytest.mark.parametrize(("shape", "window", "stride", "padding"), BANDED + STACKED + GAPS)
def test_average_pool_over_many_strips(shape, window, stride, padding):
    arguments = random(*shape), window, stride, padding, False
    close(average_pool2d(*arguments, MODES["average_exc_pad"]), reference.average_pool2d(*arguments, "average_exc_pad"))


def test_max_pool_numbers_the_taps_of_large_windows():
    check_max_pool(random(2, 2, 40, 37), np.int64, (20, 30), (3, 5), ((10, 4), (7, 29)), False)


def test_one_byte_cannot_number_the_taps_of_large_windows():
    with pytest.raises(ValueError, match="pass winners_dtype int64"):
        max_pool2d(random(1, 1, 20, 20), np.uint8, (16, 17), (1, 1), NO_PADDING, True)


def test_a_window_may_be_larger_than_the_image():
    check_max_pool(random(2, 1, 3, 2), np.int64, (50, 60), (40, 40), ((2, 9), (3, 59)), False)


def test_one_pixel():
    images = random(1, 1, 1, 1)
    check_max_pool(images, np.uint8, (1, 1), (1, 1), NO_PADDING, True)
    check_max_pool(images, np.uint8, (3, 3), (2, 2), ((1, 1), (1, 1)), True)
    assert average_pool2d(images, (3, 3), (2, 2), ((1, 1), (1, 1)), True, MODES["average_inc_pad"]) == images / 9


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 0, 5, 6)])
def test_no_images_give_no_maps(shape):
    windows = (3, 2), (2, 2), NO_PADDING
    maxima, winners = max_pool2d(np.zeros(shape), np.uint8, *windows, True)
    assert maxima.shape == winners.shape == (*shape[:2], 2, 3)
    assert max_pool2d_grad(winners, maxima, 5, 6, *windows).shape == shape
    assert max_pool2d_gather(np.zeros(shape), winners, *windows).shape == maxima.shape
    assert average_pool2d(np.zeros(shape), *windows, True, MODES["sum"]).shape == maxima.shape
    assert average_pool2d_grad(maxima, 5, 6, *windows, MODES["sum"]).shape == shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_winners_in_any_layout(layout):
    windows = (3, 3), (2, 2), ((1, 1), (1, 1))
    _, winners = reference.max_pool2d(random(3, 2, 8, 7), np.int64, *windows, True)
    winners, maps = with_layout(winners, layout), with_layout(random(*winners.shape), layout)
    arguments = winners, maps, 8, 7, *windows
    close(max_pool2d_grad(*arguments), reference.max_pool2d_grad(*arguments))


# Images of so many bytes that their gradients are written past the caches: rows that are no whole vectors, planes of
# several bands, and planes smaller than a vector, whose first belong to one thread and the last to another.
STREAMED = [
    ((30, 100, 55, 55), (3, 3), (2, 2), NO_PADDING),
    ((85, 40, 50, 51), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((70, 50, 50, 49), (3, 2), (3, 2), NO_PADDING),
    ((3000001, 1, 1, 3), (1, 2), (1, 2), ((0, 0), (1, 0))),
]


@pytest.mark.parametrize(("shape", "window", "stride", "padding"), STREAMED)
def test_gradients_that_no_cache_holds(shape, window, stride, padding):
    windows = window, stride, padding
    images = random(*shape, dtype="float32")
    assert images.nbytes >= STREAMED_BYTES
    maxima, winners = max_pool2d(images, np.uint8, *windows, True)
    arguments = maxima, *shape[2:], *windows
    close(max_pool2d_grad(winners, *arguments), reference.max_pool2d_grad(winners, *arguments))
    close(average_pool2d_grad(*arguments, MODES["sum"]), reference.average_pool2d_grad(*arguments, "sum"))


@pytest.mark.parametrize("window", [3, 4])
def test_maxima_that_no_cache_holds(window):
    images = random(85, 40, 50, 51, dtype="float32")
    images[5, ::7, 2:3, 5] = np.nan
    windows = (window, window), (1, 1), ((1, 1), (1, 1))
    assert images.nbytes >= STREAMED_BYTES
    check_max_pool(images, np.uint8, *windows, False)
    averages = average_pool2d(images, *windows, False, MODES["sum"])
    close(averages, reference.average_pool2d(images, *windows, False, "sum"))


# ------------------------------------------------------------------------------------ who wins


@pytest.mark.parametrize("dtype", ["int8", "uint64", "bool"])
def test_max_pool_of_integers(dtype):
    images = random(2, 3, 9, 8) * 3
    check_max_pool(images.astype("int64").astype(dtype), np.uint8, (3, 2), (2, 1), ((1, 1), (1, 0)), False)


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo("float32").min, -1.0])
def test_padding_never_wins(lowest):
    images = np.full((2, 3, 7, 6), lowest, "float32")
    check_max_pool(images, np.uint8, (4, 3), (2, 2), ((3, 1), (2, 2)), False)


def test_padding_never_wins_over_the_lowest_integer():
    check_max_pool(np.full((1, 1, 5, 5), -128, "int8"), np.uint8, (3, 3), (2, 2), ((2, 1), (1, 2)), False)


def test_the_first_of_equal_maxima_wins():
    _, winners = max_pool2d(np.ones((1, 1, 4, 4)), np.uint8, (3, 3), (1, 1), NO_PADDING, True)
    assert not winners.any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_first_nan_wins(dtype):
    images = random(3, 4, 12, 11, dtype=dtype)
    images[images > 1] = np.nan
    images[images < -1] = np.inf
    check_max_pool(images, np.uint8, (3, 3), (2, 1), ((1, 2), (0, 1)), False)


# -------------------------------------------------------------------------------------------- misfits

IMAGES = np.zeros((2, 3, 5, 6))
MISFITS = [
    (IMAGES, (0, 2), (1, 1), NO_PADDING, "ws must be at least 1 on each axis, got 0 rows"),
    (IMAGES, (2, -1), (1, 1), NO_PADDING, "ws must be at least 1 on each axis, got -1 columns"),
    (IMAGES, (2, 2), (1, 0), NO_PADDING, "stride must be at least 1 on each axis, got 0 for columns"),
    (IMAGES, (2, 2), (1, 1), ((0, -1), (0, 0)), "pad must not be negative, got -1 for rows"),
    (IMAGES, (2, 2), (1, 1), ((0, 0), (2, 0)), "pad 2 is not smaller than the window's 2 columns"),
    (IMAGES, (6, 2), (1, 1), NO_PADDING, "ws spans 6 rows but the padded input has only 5"),
    (IMAGES[:, :, :0], (2, 2), (1, 1), NO_PADDING, "input has no rows to pool"),
    (IMAGES[:0, :, :, :0], (2, 2), (1, 1), NO_PADDING, "input has no columns to pool"),
]


@pytest.mark.parametrize(("images", "window", "stride", "padding", "problem"), MISFITS)
def test_windows_that_do_not_fit(images, window, stride, padding, problem):
    shape = "x".join(map(str, images.shape))
    with pytest.raises(ShapeError, match=f"{problem}.*input is {shape}"):
        max_pool2d(images, np.uint8, window, stride, padding, True)
    with pytest.raises(ShapeError, match=f"{problem}.*input is {shape}"):
        average_pool2d(images, window, stride, padding, True, MODES["sum"])


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((2, 3, 2, 2), 5, 9), ((2, 3, 2, 2), 1, 5), ((2, 3, 5, 2), 5, 5), ((2, 3, 0, 2), 5, 5)],
)
def test_pooled_maps_that_do_not_fit(shape, rows, columns):
    windows = (2, 2), (2, 2), NO_PADDING
    maps, winners = np.zeros(shape), np.zeros(shape, "uint8")
    problem = "pooled maps of {} do not come from an input of {}".format(
        "x".join(map(str, shape)), "x".join(map(str, (*shape[:2], rows, columns)))
    )
    with pytest.raises(ShapeError, match=problem):
        max_pool2d_grad(winners, maps, rows, columns, *windows)
    with pytest.raises(ShapeError, match=problem):
        max_pool2d_gather(np.zeros((*shape[:2], rows, columns)), winners, *windows)
    with pytest.raises(ShapeError, match=problem):
        average_pool2d_grad(maps, rows, columns, *windows, MODES["sum"])


def test_maps_and_winners_of_different_shapes():
    with pytest.raises(ShapeError, match="winners are 1x1x2x2 but output_grad is 1x1x2x3"):
        max_pool2d_grad(np.zeros((1, 1, 2, 2), "uint8"), np.zeros((1, 1, 2, 3)), 5, 5, (2, 2), (2, 2), NO_PADDING)


def test_images_and_winners_of_different_batches():
    with pytest.raises(ShapeError, match="pooled maps of 2x1x2x2 do not come from an input of 1x1x4x4"):
        max_pool2d_gather(np.zeros((1, 1, 4, 4)), np.zeros((2, 1, 2, 2), "uint8"), (2, 2), (2, 2), NO_PADDING)


@pytest.mark.parametrize(
    ("place", "winner"),
    [
        ((0, 0, 1, 1), 9),
        ((1, 1, 1, 1), -1),
        ((0, 0, 0, 0), 0),
        ((1, 0, 2, 2), 8),
        ((0, 1, 0, 2), 3 + 2),
        ((1, 1, 1, 1), 2**62),
        ((1, 1, 2, 1), 3 + 31),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_winners_that_are_no_pixels_of_their_window(place, winner, dtype):
    if not np.iinfo(dtype).min <= winner <= np.iinfo(dtype).max:
        pytest.skip("no number of this dtype")
    windows = (3, 3), (2, 2), ((1, 1), (1, 1))
    images = random(2, 2, 5, 5)
    maps, winners = max_pool2d(images, np.dtype(dtype).type, *windows, True)
    winners[place] = winner
    with pytest.raises(ShapeError, match=f"winners hold {winner}, which is not a tap inside .* window of 3x3"):
        max_pool2d_grad(winners, maps, 5, 5, *windows)
    with pytest.raises(ShapeError, match=f"winners hold {winner}, which is not a tap inside .* window of 3x3"):
        max_pool2d_gather(images, winners, *windows)


# ------------------------------------------------------------------------------ threads, compiled callers


def test_serial_and_threaded_agree_bit_for_bit():
    windows = (3, 3), (2, 2), ((1, 1), (1, 1))
    images = random(16, 32, 23, 21, dtype="float32")

    def everything():
        maxima, winners = max_pool2d(images, np.uint8, *windows, True)
        averages = average_pool2d(images, *windows, True, MODES["average_exc_pad"])
        return (
            maxima,
            winners,
            max_pool2d_grad(winners, averages, *images.shape[2:], *windows),
            max_pool2d_gather(images, winners, *windows),
            averages,
            average_pool2d_grad(averages, *images.shape[2:], *windows, MODES["average_inc_pad"]),
        )

    threads = numba.get_num_threads()
    threaded = everything()
    numba.set_num_threads(1)
    try:
        serial = everything()
    finally:
        numba.set_num_threads(threads)
    assert images.size > pool_checks.SERIAL_TAPS
    for one, other in zip(serial, threaded):
        assert one.tobytes() == other.tobytes()


def test_compiled_callers_may_pass_arrays_of_numbers():
    @numba.njit
    def pool(images, window, stride, padding):
        return max_pool2d(images, np.uint8, window, stride, padding, True)

    images = random(2, 3, 9, 8)
    images.flags.writeable = False
    numbers = (3, 2), (2, 1), ((1, 1), (0, 1))
    actual = pool(images, *map(np.array, numbers))
    for one, other in zip(actual, reference.max_pool2d(images, np.uint8, *numbers, True)):
        same(one, other)
