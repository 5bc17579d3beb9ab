"""The three passes of a correlation: against the NumPy definitions, and under threads and forks."""

import multiprocessing
import threading

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_convnet import reference
from pytensor_convnet.geometry import ShapeError, correlation_length, dilated_length
from pytensor_convnet.kernels.cpu import correlate2d, correlate2d_filter_grad, correlate2d_input_grad

NO_PADDING = ((0, 0), (0, 0))


def random_arrays(*shapes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def map_shape(images, filters, stride, padding, dilation):
    lengths = (correlation_length(images[2 + i], filters[2 + i], stride[i], *padding[i], dilation[i]) for i in range(2))
    return (images[0], filters[0], *lengths)


def assert_passes_agree(images, filters, maps, stride, padding, dilation, groups, flip):
    """All three passes equal the definition, up to rounding."""
    settings = (stride, padding, dilation, groups, flip)
    tolerance = 1e-10 if images.dtype == np.float64 else 1e-5
    exact_images, exact_filters, exact_maps = (a.astype("float64") for a in (images, filters, maps))
    for result, expected in (
        (correlate2d(images, filters, *settings), reference.correlate2d(exact_images, exact_filters, *settings)),
        (
            correlate2d_input_grad(filters, maps, *images.shape[2:], *settings),
            reference.correlate2d_input_grad(exact_filters, exact_maps, *images.shape[2:], *settings),
        ),
        (
            correlate2d_filter_grad(images, maps, *filters.shape[2:], *settings),
            reference.correlate2d_filter_grad(exact_images, exact_maps, *filters.shape[2:], *settings),
        ),
    ):
        assert result.dtype == images.dtype
        assert result.shape == expected.shape
        assert result.flags.c_contiguous
        error = np.linalg.norm(result - expected)
        assert error <= tolerance * max(1, np.linalg.norm(expected))


@st.composite
def correlations(draw):
    """Shapes of images and filters, and how the filters move."""
    small = st.integers(1, 3)
    stride, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    groups = draw(small)
    taps = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding, lengths = [], []
    for axis in range(2):
        span = dilated_length(taps[axis], dilation[axis])
        sides = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
        lengths.append(draw(st.integers(max(1, span - sum(sides)), 20)) if span < 20 else span)
        padding.append(sides)
    channels = draw(st.integers(1, max(1, 7 // groups)))
    filters = draw(st.integers(1, max(1, 20 // groups)))
    batch = draw(st.integers(0, 40))
    images = (batch, channels * groups, *lengths)
    return images, (filters * groups, channels, *taps), stride, tuple(padding), dilation, groups


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(correlations(), st.booleans())
def test_passes_agree_with_the_definition_for_any_geometry(dtype, drawn, flip):
    images, filters, stride, padding, dilation, groups = drawn
    maps = map_shape(images, filters, stride, padding, dilation)
    arrays = random_arrays(images, filters, maps, dtype=dtype)
    assert_passes_agree(*arrays, stride, padding, dilation, groups, flip)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("images", "filters", "stride", "padding"),
    [
        ((64, 3, 12, 12), (20, 3, 5, 5), (1, 1), ((2, 2), (2, 2))),
        ((33, 5, 19, 23), (7, 5, 3, 5), (2, 1), ((1, 1), (2, 2))),
        ((1, 3, 65, 70), (16, 3, 7, 7), (2, 2), ((3, 3), (3, 3))),
        ((1, 40, 7, 7), (50, 40, 3, 3), (1, 1), ((1, 1), (1, 1))),
        ((2, 300, 5, 9), (3, 300, 3, 3), (1, 1), ((1, 1), (1, 1))),
        ((3, 2, 4, 1500), (5, 2, 3, 3), (1, 1), ((1, 1), (1, 1))),
        ((2, 3, 39, 39), (9, 3, 11, 11), (4, 4), NO_PADDING),
        ((5, 2, 9, 9), (4, 2, 1, 1), (3, 3), NO_PADDING),
    ],
    ids=["batch", "odd", "single", "deep", "channels", "wide", "large_filters", "stride_beyond_filter"],
)
def test_passes_agree_with_the_definition(images, filters, stride, padding, dtype):
    arrays = random_arrays(images, filters, map_shape(images, filters, stride, padding, (1, 1)), dtype=dtype)
    assert_passes_agree(*arrays, stride, padding, (1, 1), 1, True)


VIEWS = {
    "reversed": lambda a: a[::-1, ::-1, ::-1, ::-1],
    "transposed": lambda a: np.ascontiguousarray(a.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0),
    "c01b": lambda a: np.ascontiguousarray(a.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2),
    "channels_last": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every_other": lambda a: np.repeat(np.repeat(a, 2, axis=3), 2, axis=1)[:, ::2, :, ::2],
    "broadcast": lambda a: np.broadcast_to(a[:, :, :1, :1], a.shape),
}


@pytest.mark.parametrize("batch", [3, 32], ids=["few_images", "full_lanes"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_strides_are_accepted(view, batch):
    arrays = random_arrays((batch, 3, 9, 21), (5, 3, 3, 2), (batch, 5, 9, 22), dtype="float32")
    assert_passes_agree(*map(view, arrays), (1, 1), ((1, 1), (2, 0)), (1, 1), 1, False)


def test_read_only_arrays_are_accepted():
    arrays = random_arrays((3, 2, 6, 6), (4, 2, 3, 3), (3, 4, 4, 4), dtype="float32")
    for array in arrays:
        array.flags.writeable = False
    assert_passes_agree(*arrays, (1, 1), NO_PADDING, (1, 1), 1, False)


def test_callable_from_compiled_code():
    images, filters = random_arrays((3, 2, 6, 6), (4, 2, 3, 3), dtype="float32")

    @numba.njit
    def compiled(images, filters):
        return correlate2d(images, filters, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)

    expected = correlate2d(images, filters, (1, 1), NO_PADDING, (1, 1), 1, False)
    np.testing.assert_array_equal(compiled(images, filters), expected)


@pytest.mark.parametrize(
    ("images", "filters"),
    [((0, 3, 8, 8), (4, 3, 3, 3)), ((2, 0, 8, 8), (4, 0, 3, 3)), ((2, 3, 8, 8), (0, 3, 3, 3))],
    ids=["batch", "channels", "filters"],
)
def test_nothing_to_sum_gives_zeros_or_nothing(images, filters):
    arrays = random_arrays(images, filters, (images[0], filters[0], 6, 6), dtype="float32")
    assert_passes_agree(*arrays, (1, 1), NO_PADDING, (1, 1), 1, False)


@pytest.mark.parametrize(
    ("images", "filters", "groups", "words"),
    [
        ((2, 3, 4, 9), (5, 3, 5, 3), 1, "filters span 5 rows but the padded input has only 4 .*2x3x4x9.*5x3x5x3"),
        ((2, 3, 9, 4), (5, 3, 3, 6), 1, "filters span 6 columns"),
        ((2, 4, 9, 9), (5, 3, 3, 3), 1, "input has 4 channels but filters expect 3"),
        ((2, 4, 9, 9), (5, 2, 3, 3), 2, "num_groups=2 does not divide the 5 filters"),
        ((2, 3, 9, 9), (4, 2, 3, 3), 2, "num_groups=2 does not divide the 3 channels"),
    ],
    ids=["rows", "columns", "channels", "filters", "groups"],
)
def test_filters_that_do_not_fit_raise(images, filters, groups, words):
    images, filters = random_arrays(images, filters, dtype="float32")
    with pytest.raises(ShapeError, match=words):
        correlate2d(images, filters, (1, 1), NO_PADDING, (1, 1), groups, False)


def test_maps_that_do_not_fit_raise():
    images, filters, maps = random_arrays((2, 3, 9, 9), (4, 3, 3, 3), (2, 4, 6, 7), dtype="float32")
    moves = ((1, 1), NO_PADDING, (1, 1), 1, False)
    for gradient in (
        lambda: correlate2d_input_grad(filters, maps, 9, 9, *moves),
        lambda: correlate2d_filter_grad(images, maps, 3, 3, *moves),
    ):
        with pytest.raises(ShapeError, match=r"output_grad is 2x4x6x7 but this convolution's output is 2x4x7x7"):
            gradient()


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((0, 1), NO_PADDING, (1, 1), 1),
        ((1, 1), ((0, -1), (0, 0)), (1, 1), 1),
        ((1, 1), NO_PADDING, (1, 0), 1),
        ((1, 1), NO_PADDING, (1, 1), 0),
    ],
    ids=["stride", "padding", "dilation", "groups"],
)
def test_impossible_moves_raise(stride, padding, dilation, groups):
    images, filters = random_arrays((2, 3, 9, 9), (4, 3, 3, 3), dtype="float32")
    with pytest.raises(ValueError, match="must"):
        correlate2d(images, filters, stride, padding, dilation, groups, False)


# ---------------------------------------------------------------------------------- threads and processes


def large_passes():
    """All passes of a correlation that is large enough for threads."""
    images, filters, maps = random_arrays((48, 8, 16, 16), (24, 8, 5, 5), (48, 24, 16, 16), dtype="float32")
    moves = ((1, 1), ((2, 2), (2, 2)), (1, 1), 1, True)
    return (
        correlate2d(images, filters, *moves),
        correlate2d_input_grad(filters, maps, 16, 16, *moves),
        correlate2d_filter_grad(images, maps, 5, 5, *moves),
    )


def assert_same(results, expected):
    for result, want in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, want)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_results_do_not_depend_on_the_number_of_threads():
    allowed = numba.get_num_threads()
    expected = large_passes()
    try:
        numba.set_num_threads(1)
        assert_same(large_passes(), expected)
    finally:
        numba.set_num_threads(allowed)


def test_results_are_the_same_every_time():
    assert_same(large_passes(), large_passes())


def test_two_python_threads_may_run_passes_at_once():
    expected, found = large_passes(), []

    def work():
        for _ in range(5):
            found.append(large_passes())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    for results in found:
        assert_same(results, expected)


def _send_passes(pipe):
    pipe.send(large_passes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_may_run_passes():
    expected = large_passes()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_send_passes, args=(theirs,))
    child.start()
    assert ours.poll(60), "the child died or hangs"
    assert_same(ours.recv(), expected)
    child.join()
