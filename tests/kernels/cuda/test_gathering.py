"""Plans of gathering correlations hold exactly the products of the definition."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("triton", reason="the CUDA kernels are written in Triton")

from pytensor_convnet.geometry import correlation_length, dilated_length
from pytensor_convnet.kernels.cuda.gathering import Geometry, axis_plan


@st.composite
def geometries(draw):
    """Correlations whose rows are interesting; columns have one tap."""
    taps, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    least = max(1, dilated_length(taps, dilation) - before - after)
    rows = draw(st.integers(least, least + 9))
    return Geometry((1, 1, rows, 1), (1, 1, taps, 1), (stride, 1), ((before, after), (0, 0)), (dilation, 1), 1, False)


def products_of_definition(geometry):
    """Which pixel meets which tap for which row of the maps."""
    taps, stride, dilation = geometry.filters[2], geometry.stride[0], geometry.dilation[0]
    before, after = geometry.padding[0]
    maps = correlation_length(geometry.images[2], taps, stride, before, after, dilation)
    met = {(y, tap, y * stride + tap * dilation - before) for y in range(maps) for tap in range(taps)}
    return Counter((y, tap, pixel) for y, tap, pixel in met if 0 <= pixel < geometry.images[2])


def products_of_plan(axis, gradient):
    """The same, of a plan: for each position, residue and place the tap that they meet in, if there is one."""
    found = []
    for position in range(axis.positions):
        for entry in axis.classes:
            for residue in range(entry.first, entry.first + entry.count):
                target = axis.patch * position + residue
                for place in entry.places:
                    source = axis.step * position + place
                    tap, rest = divmod(
                        axis.row_factor * place + axis.residue_factor * residue + axis.before, axis.dilation
                    )
                    inside = target < axis.target_length and 0 <= source < axis.source_length
                    if inside and rest == 0 and 0 <= tap < axis.taps:
                        found.append((source, tap, target) if gradient else (target, tap, source))
    return Counter(found)


@given(geometry=geometries(), times=st.integers(1, 4), joined=st.booleans())
def test_a_forward_pass_in_patches_has_each_product_once(geometry, times, joined):
    plan = axis_plan(geometry, 0, False, times, joined)
    assert products_of_plan(plan, gradient=False) == products_of_definition(geometry)


@given(geometry=geometries(), times=st.integers(1, 4), joined=st.booleans())
def test_an_input_gradient_in_patches_has_each_product_once(geometry, times, joined):
    plan = axis_plan(geometry, 0, True, times * geometry.stride[0], joined)
    assert products_of_plan(plan, gradient=True) == products_of_definition(geometry)


@given(geometry=geometries(), times=st.integers(1, 3))
def test_a_plan_that_stays_inside_the_source_says_so(geometry, times):
    plan = axis_plan(geometry, 0, False, times, joined=True)
    reads = {plan.step * position + place for position in range(plan.positions) for place in plan.classes[0].places}
    assert plan.leaves_source == (min(reads) < 0 or max(reads) >= plan.source_length)
