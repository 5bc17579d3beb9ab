"""The matrices of minimal filtering compute correlations, and the emitted instructions apply those matrices."""

from fractions import Fraction

import numba
import numpy as np
import pytest

from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.minimal_filtering import (
    FORM_OUTPUTS,
    FORM_TAPS,
    FORMS,
    MOST_POINTS,
    MOST_TAPS,
    matrices,
    transform_filters,
    transform_inputs,
    transform_maps,
    transform_outputs,
    transform_sums,
)
from pytensor_convnet.kernels.cpu.register_blocks import MOST_FILTERS
from tests.kernels.cpu.passes import FORM_IDS

EVERY_FORM = pytest.mark.parametrize("form", range(len(FORMS)), ids=FORM_IDS)
INDIRECT_FORMS = pytest.mark.parametrize("form", range(1, len(FORMS)), ids=FORM_IDS[1:])
EVERY_FLOAT = pytest.mark.parametrize("dtype", ["float32", "float64"])


# ------------------------------------------------------------------------------------------- the matrices


def exact_matrices(form):
    """The matrices of a form as the fractions that float64 stands for."""
    return tuple(
        np.array([[Fraction(number).limit_denominator(10_000) for number in row] for row in matrix], object)
        for matrix in matrices(*FORMS[form])
    )


@EVERY_FORM
def test_outputs_are_the_correlation_of_inputs_with_taps_exactly(form):
    output_matrix, filter_matrix, input_matrix = exact_matrices(form)
    outputs, taps = FORMS[form]
    for tap in range(taps):
        for column in range(outputs + taps - 1):
            only = output_matrix @ (filter_matrix[:, tap] * input_matrix[:, column])
            np.testing.assert_array_equal(only, [int(output + tap == column) for output in range(outputs)])


@EVERY_FORM
def test_the_transpose_gives_the_gradient_of_taps_exactly(form):
    output_matrix, filter_matrix, input_matrix = exact_matrices(form)
    outputs, taps = FORMS[form]
    random = np.random.default_rng(0)
    inputs, maps = (random.integers(-9, 10, size).astype(object) for size in (outputs + taps - 1, outputs))
    gradient = filter_matrix.T @ ((output_matrix.T @ maps) * (input_matrix @ inputs))
    np.testing.assert_array_equal(gradient, [maps @ inputs[tap : tap + outputs] for tap in range(taps)])


@EVERY_FORM
def test_matrices_are_exact_to_the_last_digit_of_float64(form):
    for matrix, exact in zip(matrices(*FORMS[form]), exact_matrices(form)):
        np.testing.assert_array_equal(matrix, exact.astype(float))


@EVERY_FORM
def test_a_form_multiplies_once_for_each_point(form):
    outputs, taps = FORMS[form]
    points = outputs + taps - 1
    shapes = [matrix.shape for matrix in matrices(outputs, taps)]
    assert shapes == [(outputs, points), (points, taps), (points, points)]


def test_the_direct_algorithm_is_the_first_form():
    assert FORMS[0] == (1, 1)
    for matrix in matrices(1, 1):
        np.testing.assert_array_equal(matrix, [[1]])


def test_tables_of_forms_agree():
    assert list(zip(FORM_OUTPUTS, FORM_TAPS)) == list(FORMS)
    assert max(FORM_OUTPUTS + FORM_TAPS - 1) == MOST_POINTS
    assert max(FORM_TAPS) == MOST_TAPS


# --------------------------------------------------------------------------------------- the instructions

TILES = 3


@numba.njit
def inputs_transformed(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles):
    transform_inputs(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles)


@numba.njit
def outputs_transformed(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles):
    transform_outputs(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles)


@numba.njit
def maps_transformed(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles):
    transform_maps(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles)


@numba.njit
def sums_transformed(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles):
    transform_sums(form, source, at, step, tile, target, target_at, target_step, target_tile, tiles)


TRANSFORMS = {
    "inputs": (inputs_transformed, lambda a, g, b: b),
    "outputs": (outputs_transformed, lambda a, g, b: a),
    "maps": (maps_transformed, lambda a, g, b: a.T),
    "sums": (sums_transformed, lambda a, g, b: g.T),
}


def close(actual, expected, scale):
    tolerance = {"float32": 1e-6, "float64": 1e-15}[actual.dtype.name]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", TRANSFORMS)
@EVERY_FLOAT
@INDIRECT_FORMS
def test_a_transform_applies_its_matrix_to_each_tile(form, dtype, kind):
    transform, pick = TRANSFORMS[kind]
    matrix = pick(*matrices(*FORMS[form]))
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    # Tiles overlap, as those of inputs do; targets lie point by point.
    step, tile = 2, 3
    random = np.random.default_rng(form)
    source = random.standard_normal((TILES * tile + matrix.shape[1] * step, lanes)).astype(dtype)
    target = np.full((2 + matrix.shape[0] * TILES, lanes), np.nan, dtype)
    transform(
        form, source.ravel(), lanes, step * lanes, tile * lanes, target.ravel(), lanes, TILES * lanes, lanes, TILES
    )  # fmt: skip
    result = target[1:-1].reshape(matrix.shape[0], TILES, lanes)
    for number in range(TILES):
        operands = source[1 + number * tile :][: matrix.shape[1] * step : step].astype("float64")
        close(result[:, number], matrix @ operands, np.abs(matrix).sum(1).max() * np.abs(operands).max())
    assert np.isnan(target[[0, -1]]).all(), "it wrote beside its target"


@numba.njit
def filters_transformed(form, numbers, packed, zero, infinity, between, point_step):
    transform_filters(form, numbers, packed, zero, infinity, between, point_step)


@EVERY_FLOAT
@EVERY_FORM
def test_filters_are_transformed_in_float64_and_rounded_once(form, dtype):
    outputs, taps = FORMS[form]
    points = outputs + taps - 1
    filter_matrix = matrices(outputs, taps)[1]
    numbers = np.random.default_rng(form).standard_normal((taps, MOST_FILTERS))
    packed = np.full((2 + points, 3 + MOST_FILTERS), np.nan, dtype)
    at = packed.shape[1]
    # The first point last, the last first.
    filters_transformed(form, numbers, packed.ravel(), points * at, at, 2 * at, at)
    written = packed[[points, *range(2, points), 1] if points > 1 else [1]]
    half_a_digit = 0.51 * np.finfo(dtype).eps
    np.testing.assert_allclose(written[:, :MOST_FILTERS], filter_matrix @ numbers, rtol=half_a_digit, atol=1e-14)
    packed[1:-1, :MOST_FILTERS] = np.nan
    assert np.isnan(packed).all(), "it wrote beside its target"


@INDIRECT_FORMS
def test_a_filter_that_is_not_finite_leaves_the_others_alone(form):
    outputs, taps = FORMS[form]
    place = form % MOST_FILTERS
    numbers = np.ones((taps, MOST_FILTERS))
    numbers[:, place] = np.nan
    packed = np.zeros((outputs + taps - 1, MOST_FILTERS), "float32")
    last = (outputs + taps - 2) * MOST_FILTERS
    filters_transformed(form, numbers, packed.ravel(), 0, last, MOST_FILTERS, MOST_FILTERS)
    assert np.isnan(packed[:, place]).any()
    assert np.isfinite(np.delete(packed, place, axis=1)).all()
