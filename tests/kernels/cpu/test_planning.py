"""What every plan of a pass keeps to, whichever the cost model prefers."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytensor_convnet.bench.cases import CONV
from pytensor_convnet.geometry import correlation_length, dilated_length
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.minimal_filtering import FORMS
from pytensor_convnet.kernels.cpu.packing import correlation_axis, gradient_axis
from pytensor_convnet.kernels.cpu.planning import plan_pass
from tests.kernels.cpu.passes import FORM_IDS, PASSES, Geometry, geometry_with_form


@numba.njit
def correlation_plan(batch, row_axis, column_axis, channels, filters, itemsize, whole):
    rows, columns = correlation_axis(*row_axis), correlation_axis(*column_axis)
    return rows, columns, plan_pass(batch, rows, columns, channels, filters, itemsize, whole)


@numba.njit
def gradient_plan(batch, row_axis, column_axis, channels, filters, itemsize, whole):
    rows, columns = gradient_axis(*row_axis), gradient_axis(*column_axis)
    return rows, columns, plan_pass(batch, rows, columns, channels, filters, itemsize, whole)


@st.composite
def axes(draw, gradient):
    """The arguments of an axis."""
    taps, stride, dilation = draw(st.integers(1, 13)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    before, after = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    least = max(1, dilated_length(taps, dilation) - before - after)
    images = draw(st.integers(least, least + 8) | st.integers(least, least + 300))
    maps = correlation_length(images, taps, stride, before, after, dilation)
    return *((images, maps) if gradient else (maps, images)), taps, stride, before, dilation


@st.composite
def plans(draw):
    """Arguments of a plan, and the plan: rows, columns, tiling, reads."""
    gradient = draw(st.booleans())
    depths = st.sampled_from((1, 3, 16, 64, 400))
    batch, channels, filters = draw(st.integers(1, 70)), draw(depths), draw(depths)
    itemsize, whole = draw(st.sampled_from((4, 8))), draw(st.booleans())
    arguments = batch, draw(axes(gradient)), draw(axes(gradient)), channels, filters, itemsize, whole
    rows, columns, (tiling, reads) = (gradient_plan if gradient else correlation_plan)(*arguments)
    return arguments, rows, columns, tiling, reads


def bases(axis):
    return -(-axis.outputs // axis.out_step)


many = settings(max_examples=200)


@many
@given(plans())
def test_tiles_cover_all_outputs_and_none_is_empty(drawn):
    _, rows, columns, tiling, _ = drawn
    assert (tiling.row_tiles - 1) * tiling.rows < bases(rows) <= tiling.row_tiles * tiling.rows
    assert (tiling.column_tiles - 1) * tiling.columns < bases(columns) <= tiling.column_tiles * tiling.columns


@many
@given(plans())
def test_lane_groups_hold_every_tile_and_none_is_empty(drawn):
    (batch, *_, itemsize, _), _, _, tiling, _ = drawn
    lanes, tiles = VECTOR_BYTES // itemsize, batch * tiling.row_tiles * tiling.column_tiles
    assert tiling.batch == batch
    assert (tiling.lane_groups - 1) * lanes < tiles <= tiling.lane_groups * lanes


@many
@given(plans())
def test_images_that_must_stay_whole_are_not_cut(drawn):
    (*_, whole), _, _, tiling, _ = drawn
    assert not whole or (tiling.row_tiles, tiling.column_tiles) == (1, 1)


@many
@given(plans())
def test_reads_are_those_of_a_tile(drawn):
    _, _, _, tiling, reads = drawn
    outputs, taps = FORMS[reads.form]
    assert (reads.outputs, reads.points) == (outputs, outputs + taps - 1)
    assert (reads.tiles - 1) * outputs < tiling.columns <= reads.tiles * outputs


@many
@given(plans())
def test_parts_of_a_filter_share_inputs_where_one_step_divides_the_other(drawn):
    _, _, columns, _, reads = drawn
    outputs, taps = FORMS[reads.form]
    parts = -(-columns.span // (columns.in_step * taps))
    assert parts == 1 or outputs % taps == 0 or taps % outputs == 0


@many
@given(plans())
def test_double_precision_is_direct(drawn):
    (*_, itemsize, _), _, _, _, reads = drawn
    assert itemsize == 4 or reads.form == 0


@pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)
@pytest.mark.parametrize("name", PASSES)
def test_every_form_is_the_best_of_some_geometry(name, form):
    assert geometry_with_form(name, form).plan(name)[1].form == form


@pytest.mark.parametrize("name", PASSES)
def test_one_tap_is_direct(name):
    assert Geometry((32, 64, 9, 32), (64, 64, 3, 1)).plan(name)[1].form == 0


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 11, 13])
def test_few_images_fill_most_lanes(batch, name):
    tiling, _ = Geometry((batch, 16, 128, 128), (32, 16, 3, 3), padding=((1, 1), (1, 1))).plan(name)
    tiles = batch * tiling.row_tiles * tiling.column_tiles
    assert tiles / (tiling.lane_groups * VECTOR_BYTES // 4) >= 0.75


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("batch", [16, 32, 128])
def test_full_lanes_hold_an_image_each(batch, name):
    tiling, _ = Geometry((batch, 16, 16, 16), (32, 16, 3, 3), padding=((1, 1), (1, 1))).plan(name)
    assert (tiling.row_tiles, tiling.column_tiles) == (1, 1)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("case", CONV.values(), ids=CONV)
def test_what_a_row_needs_is_a_few_megabytes(case, name):
    case = case.for_cpu()
    geometry = Geometry(case.image_shape, case.filter_shape, case.stride, case.padding)
    _, reads = geometry.plan(name)
    channels, filters = case.channels, case.filters
    row_taps, out_step = case.taps[0], 1
    if name == "correlate2d_input_grad":
        channels, filters = filters, channels
        row_taps, out_step = -(-row_taps // case.stride[0]), case.stride[0] * case.stride[1]
    vectors = row_taps * channels * reads.row_vectors + filters * out_step * reads.points * reads.tiles
    assert vectors * VECTOR_BYTES <= 8e6


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("name", PASSES)
def test_a_plan_does_not_depend_on_the_number_of_threads(name):
    geometries = [Geometry((batch, 24, 40, 40), (48, 24, 5, 5)) for batch in (1, 6, 16, 60)]
    allowed = numba.get_num_threads()
    plans = [geometry.plan(name) for geometry in geometries]
    try:
        numba.set_num_threads(1)
        for geometry, (tiling, reads) in zip(geometries, plans):
            alone, reads_alone = geometry.plan(name)
            assert alone == tiling
            for one, other in zip(reads, reads_alone):
                np.testing.assert_array_equal(one, other)
    finally:
        numba.set_num_threads(allowed)
