"""The three passes of a correlation: against the NumPy definitions, and under threads and forks."""

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_convnet.geometry import ShapeError, dilated_length
from pytensor_convnet.kernels.cpu import correlate2d, correlate2d_filter_grad, correlate2d_input_grad
from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS
from tests.kernels.cpu.passes import FORM_IDS, PASSES, Geometry, geometry_with_form, most_error

ROOT = Path(__file__).parents[3]
NO_PADDING = ((0, 0), (0, 0))
EVERY_FLOAT = pytest.mark.parametrize("dtype", ["float32", "float64"])
EVERY_PASS = pytest.mark.parametrize("name", PASSES)
EVERY_FORM = pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)


def random_arrays(*shapes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def assert_passes_agree(geometry, images, filters, maps):
    """All three passes equal their definitions, up to rounding.

    A result of few numbers may happen to be small, and its relative error large. So an error may also be compared with
    what sums of so many products come to on average, whatever their signs.
    """
    arrays = images, filters, maps
    for name in PASSES:
        error = geometry.error(name, *arrays)
        most = most_error(max(1, geometry.summed_terms(name)), images.dtype.name)
        if error > most:
            squares = geometry.define(name, *(array.astype("float64") ** 2 for array in arrays))
            error *= np.linalg.norm(geometry.define(name, *arrays)) / np.sqrt(squares.sum())
        assert error <= most, name


# ---------------------------------------------------------------------------- every form, every geometry


@EVERY_FLOAT
@EVERY_FORM
@EVERY_PASS
def test_error_of_every_form(name, form, dtype):
    geometry = geometry_with_form(name, form)
    assert geometry.plan(name)[1].form == form
    assert geometry.error(name, *geometry.arrays(dtype)) <= most_error(geometry.summed_terms(name), dtype)


def in_order(*axes):
    """A view whose memory has its axes in this order."""
    return lambda a: np.ascontiguousarray(a.transpose(axes)).transpose(np.argsort(axes))


def surrounded(*axes):
    """A part of a larger array, in this order of axes, that is NaN all around."""

    def place(array):
        holder = np.full([array.shape[axis] + 2 for axis in axes], np.nan, array.dtype)
        inside = holder[(slice(1, -1),) * 4].transpose(np.argsort(axes))
        inside[:] = array
        return inside

    return place


def between(array):
    """A contiguous part of memory that is NaN before and after."""
    holder = np.full(array.size + 200, np.nan, array.dtype)
    inside = holder[100 : 100 + array.size].reshape(array.shape)
    inside[:] = array
    return inside


def every_other(array):
    """Every other channel and column of an array; the others are NaN."""
    batch, channels, rows, columns = array.shape
    holder = np.full((batch, 2 * channels, rows, 2 * columns), np.nan, array.dtype)
    holder[:, ::2, :, ::2] = array
    return holder[:, ::2, :, ::2]


VIEWS = {
    "between_nans": between,
    "within_nans": surrounded(0, 1, 2, 3),
    "reversed": lambda a: between(a[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "transposed": in_order(3, 2, 1, 0),
    "c01b": in_order(1, 2, 3, 0),
    "c01b_within_nans": surrounded(1, 2, 3, 0),
    "channels_last": in_order(0, 2, 3, 1),
    "channels_last_within_nans": surrounded(0, 2, 3, 1),
    "every_other": every_other,
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
}


ABOUT_VECTORS = st.builds(lambda n, more: 8 * n + more, st.integers(1, 5), st.sampled_from((-1, 0, 1)))


@st.composite
def axes(draw, most_taps, most_stride, most_dilation, most_more):
    """Taps, stride, dilation, padding and a length that fit."""
    taps, stride = draw(st.integers(1, most_taps)), draw(st.integers(1, most_stride))
    dilation = draw(st.integers(1, most_dilation))
    sides = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    least = max(1, dilated_length(taps, dilation) - sum(sides))
    length = draw(st.integers(least, least + most_more) | ABOUT_VECTORS.filter(lambda length: length >= least))
    return taps, stride, dilation, sides, length


def geometry_of(batch, channels, filters, axes, groups, flip):
    """A geometry, with a batch that the definitions can do in reasonable time."""
    taps, stride, dilation, padding, lengths = zip(*axes)
    moves = stride, padding, dilation, groups, flip
    filters = (filters * groups, channels, *taps)
    image = Geometry((1, channels * groups, *lengths), filters, *moves)
    batch = max(1, min(batch, 20_000_000 // max(1, image.multiply_adds)))
    return Geometry((batch, *image.images[1:]), filters, *moves)


@st.composite
def geometries(draw):
    """Geometries of any kind."""
    most_taps = draw(st.sampled_from([(1, 13), (4, 6), (3, 13), (13, 1)]))
    kind = draw(st.sampled_from(("whole", "whole", "grouped", "depthwise")))
    channels, filters = draw(st.sampled_from((1, 2, 3, 4, 17, 32))), draw(st.sampled_from((1, 2, 3, 7, 8, 9, 24, 40)))
    groups = {"whole": 1, "grouped": draw(st.integers(2, 3)), "depthwise": channels}[kind]
    if kind == "depthwise":
        channels, filters = 1, draw(st.integers(1, 2))
    moving = draw(axes(most_taps[0], 4, 3, 8)), draw(axes(most_taps[1], 4, 3, 12))
    return geometry_of(draw(st.integers(1, 40)), channels, filters, moving, groups, draw(st.booleans()))


@st.composite
def deep_geometries(draw):
    """Geometries for which other forms than the direct one are worth while."""
    channels, filters = draw(st.sampled_from((8, 16, 21))), draw(st.sampled_from((16, 24, 33)))
    taps, stride, _, sides, _ = draw(axes(13, 3, 1, 0))
    taps = taps + stride
    columns = max(1, taps - sum(sides)) + draw(st.integers(3, 30))
    moving = draw(axes(3, 3, 2, 3)), (taps, stride, 1, sides, columns)
    batch, groups = draw(st.sampled_from((1, 3, 13, 16, 17, 32))), draw(st.sampled_from((1, 1, 2)))
    return geometry_of(batch, channels, filters, moving, groups, draw(st.booleans()))


MEMORY = st.tuples(*[st.sampled_from(list(VIEWS))] * 3)


@EVERY_FLOAT
@settings(max_examples=150, derandomize=True)
@given(geometry=geometries(), views=MEMORY)
def test_passes_agree_with_the_definition_for_any_geometry_and_memory(dtype, geometry, views):
    arrays = (VIEWS[view](array) for view, array in zip(views, geometry.arrays(dtype)))
    assert_passes_agree(geometry, *arrays)


@settings(max_examples=150, derandomize=True)
@given(geometry=deep_geometries(), views=MEMORY)
def test_minimal_filtering_agrees_with_the_definition_for_any_geometry_and_memory(geometry, views):
    arrays = (VIEWS[view](array) for view, array in zip(views, geometry.arrays("float32")))
    assert_passes_agree(geometry, *arrays)


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
        ((16, 200, 4, 7), (500, 200, 3, 3), (1, 1), ((1, 1), (1, 1))),
        ((16, 4, 100, 131), (12, 4, 3, 3), (1, 1), ((1, 1), (1, 1))),
        ((16, 12, 101, 131), (4, 12, 3, 3), (2, 2), ((1, 1), (1, 1))),
    ],
    ids=[
        "batch",
        "odd",
        "single",
        "deep",
        "channels",
        "wide",
        "large_filters",
        "stride_beyond_filter",
        "many_filters",
        "large_maps",
        "large_images",
    ],
)
def test_passes_agree_with_the_definition(images, filters, stride, padding, dtype):
    geometry = Geometry(images, filters, stride, padding, flip=True)
    assert_passes_agree(geometry, *geometry.arrays(dtype))


@pytest.mark.parametrize("batch", [3, 32], ids=["few_images", "full_lanes"])
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_strides_are_accepted(view, channels, batch):
    geometry = Geometry((batch, channels, 9, 21), (5, channels, 3, 3), padding=((1, 1), (2, 1)))
    assert_passes_agree(geometry, *map(view, geometry.arrays("float32")))


# ------------------------------------------------------------------------------------ pixels that are not finite


def touched_columns(geometry, name, column):
    """The outputs of a pass that share a tile, and with it a transform, with a column of its input."""
    tiling, reads = geometry.plan(name)
    outputs, taps = FORMS[reads.form]
    side, dilation, stride = geometry.padding[1][0], geometry.dilation[1], geometry.stride[1]
    last_tap = (geometry.filters[3] - 1) * dilation
    if name == "correlate2d":
        count, step, first, last, phases = geometry.maps[3], stride, -side, last_tap - side, 1
    else:
        first, last = -((last_tap - side) // stride), (stride - 1 + side) // stride
        count, step, phases = geometry.images[3], 1, stride
    parts = -(-(last - first + 1) // (step * taps))
    touched = np.zeros(count, bool)
    for output in range(count):
        base = output // phases
        in_tile = base % tiling.columns
        begin = (base - in_tile % outputs) * step + first
        touched[output] = begin <= column < begin + (parts * taps + outputs - 1) * step
    return touched


@pytest.mark.parametrize("value", [np.nan, np.inf])
@EVERY_FORM
@pytest.mark.parametrize("name", PASSES[:2])
def test_a_pixel_that_is_not_finite_reaches_as_far_as_its_tile(name, form, value):
    geometry = geometry_with_form(name, form, least_columns=20)
    arrays = geometry.arrays()
    clean = geometry.run(name, *arrays)
    source, column = arrays[2], geometry.maps[3] // 2
    if name == "correlate2d":
        source, column = arrays[0], max(0, column * geometry.stride[1] - geometry.padding[1][0])
    source[2, 1, 2, column] = value
    reached = ~np.isfinite(geometry.run(name, *arrays))
    meant = ~np.isfinite(geometry.define(name, *arrays))
    assert meant.any()
    assert reached[meant].all(), "an output that meets the pixel is finite"
    allowed = meant.any(axis=3, keepdims=True) & touched_columns(geometry, name, column)
    assert not reached[~allowed].any(), "an output whose tile does not touch the pixel is not finite"
    np.testing.assert_array_equal(geometry.run(name, *arrays)[~allowed], clean[~allowed])


@EVERY_FORM
def test_a_pixel_that_is_not_finite_reaches_the_gradients_of_its_channel_only(form):
    name = "correlate2d_filter_grad"
    geometry = geometry_with_form(name, form)
    images, filters, maps = geometry.arrays()
    clean = geometry.run(name, images, filters, maps)
    images[2, 1, 2, images.shape[3] // 2] = np.nan
    gradient = geometry.run(name, images, filters, maps)
    meant = np.isnan(geometry.define(name, images, filters, maps))
    assert np.isnan(gradient[meant]).all()
    others = np.arange(gradient.shape[1]) != 1
    np.testing.assert_array_equal(gradient[:, others], clean[:, others])


@EVERY_FORM
@EVERY_PASS
def test_in_double_precision_a_pixel_that_is_not_finite_reaches_what_it_meets(name, form):
    geometry = geometry_with_form(name, form)
    images, filters, maps = geometry.arrays("float64")
    for source in (images, maps) if name == "correlate2d_filter_grad" else (images,) if name == PASSES[0] else (maps,):
        source[2, 1, 2, source.shape[3] // 2] = np.nan
    result = geometry.run(name, images, filters, maps)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(geometry.define(name, images, filters, maps)))


@EVERY_FORM
def test_filters_that_are_not_finite_reach_their_own_maps_only(form):
    geometry = geometry_with_form("correlate2d", form)
    images, filters, maps = geometry.arrays()
    clean = geometry.run("correlate2d", images, filters, maps)
    filters[1] = np.nan
    result = geometry.run("correlate2d", images, filters, maps)
    assert np.isnan(result[:, 1]).all()
    np.testing.assert_array_equal(np.delete(result, 1, axis=1), np.delete(clean, 1, axis=1))


# --------------------------------------------------------------------------------------------- what is taken


def test_read_only_arrays_are_accepted():
    geometry = Geometry((3, 2, 6, 6), (4, 2, 3, 3))
    arrays = geometry.arrays("float32")
    for array in arrays:
        array.flags.writeable = False
    assert_passes_agree(geometry, *arrays)


def test_callable_from_compiled_code():
    images, filters = random_arrays((3, 2, 6, 6), (4, 2, 3, 3), dtype="float32")

    @numba.njit
    def compiled(images, filters):
        return correlate2d(images, filters, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)

    expected = correlate2d(images, filters, (1, 1), NO_PADDING, (1, 1), 1, False)
    np.testing.assert_array_equal(compiled(images, filters), expected)


def test_constants_of_compiled_code_are_numbers_like_others():
    """A version of their own would be compiled for them, and its exceptions mixed up with those of others."""
    images, filters = random_arrays((1, 3, 8, 8), (2, 3, 3, 3))

    @numba.njit
    def caller(images, filters):
        return correlate2d(images, filters, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, False)

    expected = correlate2d(images, filters, (1, 1), NO_PADDING, (1, 1), 1, False)
    versions = len(correlate2d.signatures)
    np.testing.assert_array_equal(caller(images, filters), expected)
    assert len(correlate2d.signatures) == versions


@pytest.mark.parametrize(
    ("images", "filters"),
    [((0, 3, 8, 8), (4, 3, 3, 3)), ((2, 0, 8, 8), (4, 0, 3, 3)), ((2, 3, 8, 8), (0, 3, 3, 3))],
    ids=["batch", "channels", "filters"],
)
def test_nothing_to_sum_gives_zeros_or_nothing(images, filters):
    geometry = Geometry(images, filters)
    assert_passes_agree(geometry, *geometry.arrays("float32"))


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


GUARDED = """
import numpy as np
from tests.kernels.cpu.guards import guarded
from tests.kernels.cpu.passes import PASSES, Geometry

for dtype in ("float32", "float64"):
    for columns in (1, 15, 16, 17, 33):
        for channels, taps, stride in [(1, 3, 1), (3, 5, 2), (20, 3, 1), (20, 5, 1)]:
            sides = (taps // 2, taps // 2)
            geometry = Geometry((17, channels, 4, columns), (24, channels, 3, taps), (1, stride), ((1, 1), sides))
            arrays = geometry.arrays(dtype)
            for name in PASSES:
                expected = geometry.run(name, *arrays)
                for axes in ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0)):
                    for at_end in (False, True):
                        placed = (guarded(array, at_end, axes) for array in arrays)
                        np.testing.assert_array_equal(geometry.run(name, *placed), expected)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory as Linux does")
def test_nothing_beyond_memory_is_read():
    run = subprocess.run([sys.executable, "-c", GUARDED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr or "it read beyond its arrays"


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
@EVERY_FLOAT
@EVERY_FORM
@EVERY_PASS
def test_results_do_not_depend_on_the_number_of_threads(name, form, dtype):
    geometry = geometry_with_form(name, form, least_multiply_adds=2_000_000)
    arrays, allowed = geometry.arrays(dtype), numba.get_num_threads()
    threaded = geometry.run(name, *arrays)
    try:
        numba.set_num_threads(1)
        assert geometry.run(name, *arrays).tobytes() == threaded.tobytes()
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
