"""Lengths and paddings are counted right, for ints and for symbols, and misfits are explained."""

import numpy as np
import pytensor.tensor as pt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytensor_convnet import geometry

lengths, small, sides = st.integers(1, 30), st.integers(1, 6), st.integers(0, 6)


@given(lengths, small, small, sides, sides, small)
def test_correlation_length_counts_the_positions_of_a_filter(length, taps, stride, before, after, dilation):
    span = (taps - 1) * dilation + 1
    starts = [s for s in range(0, length + before + after, stride) if s + span <= length + before + after]
    found = geometry.correlation_length(length, taps, stride, before, after, dilation)
    assert max(found, 0) == len(starts)


@given(lengths, small, small, sides, sides)
def test_pool_length_counts_the_windows_inside(length, window, stride, before, after):
    padded = length + before + after
    starts = [s for s in range(0, padded, stride) if s + window <= padded]
    assert max(geometry.pool_length(length, window, stride, before, after, True), 0) == len(starts)


@given(lengths, small, small, sides, sides)
def test_partial_windows_cover_the_padded_image_and_start_inside_it(length, window, stride, before, after):
    before, after = min(before, window - 1), min(after, window - 1)
    count = geometry.pool_length(length, window, stride, before, after, False)
    assert (count - 1) * stride < length + before, "the last window starts inside the image"
    next_start = count * stride
    covered = (count - 1) * stride + window >= length + before + after
    assert covered or next_start >= length + before, "another window would start outside, or is not needed"


@pytest.mark.parametrize(("length", "window", "stride"), [(5, 2, 2), (5, 3, 2), (4, 1, 4), (3, 5, 2), (7, 2, 5)])
def test_partial_windows_are_counted_as_theano_counted_them(length, window, stride):
    if stride >= window:
        theano = (length - 1) // stride + 1
    else:
        theano = max(0, (length - 1 - window + stride) // stride) + 1
    assert geometry.pool_length(length, window, stride, 0, 0, False) == theano


@given(lengths, small, small, sides, sides)
def test_symbolic_lengths_equal_integer_lengths(length, window, stride, before, after):
    facts = (length, window, stride, before, after)
    symbols = [pt.constant(fact) for fact in facts]
    for formula, last in (
        (geometry.pool_length, True),
        (geometry.pool_length, False),
        (geometry.correlation_length, 2),
    ):
        assert int(formula(*symbols, last).eval(mode="FAST_COMPILE")) == formula(*facts, last)


@pytest.mark.parametrize(
    ("border_mode", "padding"),
    [
        ("valid", ((0, 0), (0, 0))),
        ("half", ((2, 2), (2, 2))),
        ("full", ((4, 4), (3, 3))),
        (3, ((3, 3), (3, 3))),
        ((1, 2), ((1, 1), (2, 2))),
        (((1, 0), (0, 2)), ((1, 0), (0, 2))),
        ((1, (0, 2)), ((1, 1), (0, 2))),
        (np.array([1, 2]), ((1, 1), (2, 2))),
        (np.array([[1, 0], [0, 2]]), ((1, 0), (0, 2))),
        (np.int64(3), ((3, 3), (3, 3))),
    ],
)
def test_border_modes_resolve_to_padding(border_mode, padding):
    assert geometry.resolve_padding(geometry.as_padding(border_mode), (3, 4), (2, 1)) == padding


@pytest.mark.parametrize(
    "border_mode", ["same", (1, 2, 3), -1, ((1, -1), (0, 0)), 1.5, (1, "x"), None, np.array([1, 2, 3])]
)
def test_a_wrong_border_mode_is_refused_by_name(border_mode):
    with pytest.raises(ValueError, match="border_mode must"):
        geometry.as_padding(border_mode)


@pytest.mark.parametrize("value", [0, (1, 0), (1,), (1, 2, 3), "12", 1.5, None])
def test_a_wrong_stride_is_refused_by_name(value):
    with pytest.raises(ValueError, match="subsample must be"):
        geometry.as_pair(value, "subsample", least=1)


def test_what_is_not_known_passes():
    unknown = (None, None, None, None)
    assert geometry.correlation_problem(unknown, unknown, (1, 1), "half", (1, 1), 2) is None
    assert geometry.maps_problem(unknown, unknown, unknown, (1, 1), ((0, 0), (0, 0)), (1, 1), 1) is None
    assert geometry.pool_problem(unknown, (None, 2), (None, 1), ((0, None), (0, 0)), True) is None


def test_a_shape_error_survives_pickling():
    import pickle

    error = geometry.ShapeError(geometry.CORRELATION, 1, 3, 8, 8, 2, 2, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 1)
    assert "input has 3 channels but filters expect 2" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.integers(-50, 50), st.integers(-50, 50))
def test_minimum_and_maximum_are_exact(a, b):
    assert (geometry.minimum(a, b), geometry.maximum(a, b)) == (min(a, b), max(a, b))


def test_nan_stands_for_an_unknown_length():
    assert np.isnan(geometry.pool_length(np.nan, 2, 2, 0, 0, False))
