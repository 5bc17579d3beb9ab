"""The table of reads describes a correlation along columns, whatever the form: each product once, nothing outside."""

import numba
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytensor_convnet.geometry import correlation_length, dilated_length
from pytensor_convnet.kernels.cpu.column_reads import plan_reads, reads_at
from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS, matrices
from pytensor_convnet.kernels.cpu.packing import correlation_axis, gradient_axis
from tests.kernels.cpu.passes import FORM_IDS

EVERY_FORM = pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)


@numba.njit
def correlation_reads(outputs, inputs, taps, stride, before, dilation, tile_columns, form):
    axis = correlation_axis(outputs, inputs, taps, stride, before, dilation)
    return axis, plan_reads(axis, tile_columns, form)


@numba.njit
def gradient_reads(outputs, inputs, taps, stride, before, dilation, tile_columns, form):
    axis = gradient_axis(outputs, inputs, taps, stride, before, dilation)
    return axis, plan_reads(axis, tile_columns, form)


@numba.njit
def reads_of_point(point, phase, reads):
    return reads_at(point, phase, reads)


@st.composite
def axes_and_reads(draw, form):
    """An axis of outputs, of a correlation or its gradient, and how a form reads it for tiles of so many bases."""
    taps, stride, dilation = draw(st.integers(1, 13)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    span = dilated_length(taps, dilation)
    images = draw(st.integers(max(1, span - before - after), span + 20))
    maps = correlation_length(images, taps, stride, before, after, dilation)
    gradient = draw(st.booleans())
    reads_of, lengths = (gradient_reads, (images, maps)) if gradient else (correlation_reads, (maps, images))
    tile_columns = draw(st.integers(1, 24))
    axis, reads = reads_of(*lengths, taps, stride, before, dilation, tile_columns, form)
    outputs, form_taps = FORMS[form]
    parts = -(-axis.span // (axis.in_step * form_taps))
    assume(parts == 1 or outputs % form_taps == 0 or form_taps % outputs == 0)
    return axis, reads, tile_columns


def phases(axis, reads):
    """For each phase, its reads, and its taps with their offsets."""
    for phase in range(axis.out_step):
        here = slice(axis.starts[phase], axis.starts[phase + 1])
        yield range(reads.first[phase], reads.first[phase + 1]), dict(zip(axis.taps[here], axis.offsets[here]))


def place_of(read, reads):
    """Where the inputs of a read of tile 0 begin, counted in columns of the row."""
    start, place = divmod(reads.offsets[read], reads.points * reads.places) if reads.points > 1 else (0, 0)
    return place * reads.tile_inputs + start if reads.points > 1 else reads.offsets[read]


@EVERY_FORM
@given(data=st.data())
def test_every_output_meets_each_tap_of_its_phase_once(form, data):
    axis, reads, tile_columns = data.draw(axes_and_reads(form))
    tile_inputs = reads.tile_step * (reads.tile_inputs if reads.points > 1 else 1)
    for numbers, taps in phases(axis, reads):
        for base in range(tile_columns):
            tile, output = divmod(base, reads.outputs)
            met = {}
            for read in numbers:
                for place, tap in enumerate(reads.taps[read]):
                    if tap >= 0:
                        assert tap not in met
                        met[tap] = place_of(read, reads) + tile * tile_inputs + (output + place) * axis.in_step
            assert met == {tap: base * axis.in_step + offset - axis.first for tap, offset in taps.items()}


@EVERY_FORM
@given(data=st.data())
def test_every_read_has_a_tap(form, data):
    _, reads, _ = data.draw(axes_and_reads(form))
    assert (reads.taps >= 0).any(axis=1).all()


@EVERY_FORM
@given(data=st.data())
def test_a_point_leaves_out_the_reads_whose_filters_are_zero_there(form, data):
    axis, reads, _ = data.draw(axes_and_reads(form))
    filter_matrix = matrices(*FORMS[form])[1]
    for phase in range(axis.out_step):
        for point in range(reads.points):
            first, last = reads.first[phase], reads.first[phase + 1]
            begin, end = reads_of_point(point, phase, reads)
            assert first <= begin <= end <= last
            for read in (*range(first, begin), *range(end, last)):
                assert not filter_matrix[point, reads.taps[read] >= 0].any()


def test_three_taps_at_a_stride_of_two_are_multiplied_nine_times_for_four_outputs():
    _, reads = correlation_reads(16, 32, 3, 2, 1, 1, 16, FORMS.index((4, 2)))
    begin_and_end = [reads_of_point(point, 0, reads) for point in range(reads.points)]
    assert sum(end - begin for begin, end in begin_and_end) == 9


@EVERY_FORM
@given(data=st.data())
def test_tiles_cover_the_columns(form, data):
    _, reads, tile_columns = data.draw(axes_and_reads(form))
    assert (reads.tiles - 1) * reads.outputs < tile_columns <= reads.tiles * reads.outputs


@EVERY_FORM
@given(data=st.data())
def test_reads_stay_within_the_row(form, data):
    axis, reads, _ = data.draw(axes_and_reads(form))
    last = reads.offsets + (reads.points - 1) * reads.places + (reads.tiles - 1) * reads.tile_step
    assert (reads.offsets >= 0).all()
    assert (last < reads.row_vectors).all()
    if reads.points > 1:
        assert reads.row_vectors == reads.starts * reads.points * reads.places
        columns = (reads.places - 1) * reads.tile_inputs + reads.starts - 1 + (reads.points - 1) * axis.in_step
        assert columns < reads.width


@EVERY_FORM
@given(data=st.data())
def test_a_row_that_is_kept_and_read_so_gives_the_correlation(form, data):
    axis, reads, tile_columns = data.draw(axes_and_reads(form))
    output_matrix, filter_matrix, input_matrix = matrices(*FORMS[form])
    random = np.random.default_rng(0)
    row, filters = random.standard_normal(reads.width), random.standard_normal(13)
    kept = row
    if reads.points > 1:
        kept = np.empty((reads.starts, reads.points, reads.places))
        for start in range(reads.starts):
            for place in range(reads.places):
                first = start + place * reads.tile_inputs
                kept[start, :, place] = input_matrix @ row[first :: reads.starts][: reads.points]
        kept = kept.ravel()
    for numbers, taps in phases(axis, reads):
        for tile in range(reads.tiles):
            values = np.zeros(reads.points)
            for read in numbers:
                chosen = np.where(reads.taps[read] >= 0, filters[reads.taps[read]], 0)
                at = reads.offsets[read] + tile * reads.tile_step
                values += (filter_matrix @ chosen) * kept[at :: reads.places][: reads.points]
            for output, result in enumerate(output_matrix @ values):
                base = tile * reads.outputs + output
                if base < tile_columns:
                    expected = sum(
                        filters[tap] * row[base * axis.in_step + offset - axis.first] for tap, offset in taps.items()
                    )
                    assert abs(result - expected) < 1e-11
