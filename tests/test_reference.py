"""The NumPy definitions agree with SciPy."""

import numpy as np
import pytest
from hypothesis import assume, given

from pytensor_convnet import reference
from tests import independent
from tests.strategies import correlations, pools


def close(ours, other):
    np.testing.assert_allclose(ours, other, rtol=1e-10, atol=1e-10)


@given(correlations())
def test_correlate2d(case):
    assume(len(case.images))
    close(
        reference.correlate2d(case.images, case.filters, *case.window),
        independent.correlate2d(case.images, case.filters, *case.window),
    )


@given(correlations())
def test_correlate2d_input_grad(case):
    arguments = (case.filters, case.maps, *case.rows_and_columns, *case.window)
    close(reference.correlate2d_input_grad(*arguments), independent.correlate2d_input_grad(*arguments))


@given(correlations())
def test_correlate2d_filter_grad(case):
    arguments = (case.images, case.maps, *case.taps, *case.window)
    close(reference.correlate2d_filter_grad(*arguments), independent.correlate2d_filter_grad(*arguments))


@given(correlations())
def test_locally_connected_filters_that_are_all_equal_are_shared_filters(case):
    shared = case.filters
    filters = np.broadcast_to(shared[:, None, None], (shared.shape[0], *case.maps.shape[2:], *shared.shape[1:]))
    close(
        reference.locally_connected2d(case.images, filters, *case.window),
        reference.correlate2d(case.images, shared, *case.window),
    )


@given(correlations(unshared=True))
def test_locally_connected_gradients_are_adjoint_to_the_forward_pass(case):
    forward = reference.locally_connected2d(case.images, case.filters, *case.window)
    images = reference.locally_connected2d_input_grad(case.filters, case.maps, *case.rows_and_columns, *case.window)
    filters = reference.locally_connected2d_filter_grad(case.images, case.maps, *case.taps, *case.window)
    close((case.images * images).sum(), (forward * case.maps).sum())
    close((case.filters * filters).sum(), (forward * case.maps).sum())


@pytest.mark.parametrize("mode", ["sum", "average_inc_pad", "average_exc_pad"])
@given(case=pools())
def test_average_pool2d(mode, case):
    assume(case.ignore_border and len(case.images))
    close(
        reference.average_pool2d(case.images, *case.windows, True, mode),
        independent.pool2d(case.images, *case.windows, mode),
    )


@given(pools())
def test_max_pool2d(case):
    assume(case.ignore_border and len(case.images))
    maxima, _ = reference.max_pool2d(case.images, np.uint8, *case.windows, True)
    close(maxima, independent.pool2d(case.images, *case.windows, "max"))


@given(pools())
def test_winners_point_at_the_maxima(case):
    maxima, winners = reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)
    np.testing.assert_array_equal(reference.max_pool2d_gather(case.images, winners, *case.windows), maxima)


@given(pools())
def test_scatter_and_gather_by_winner_are_adjoint(case):
    _, winners = reference.max_pool2d(case.images, np.uint8, *case.windows, case.ignore_border)
    scattered = reference.max_pool2d_grad(winners, case.maps, *case.rows_and_columns, *case.windows)
    gathered = reference.max_pool2d_gather(case.images, winners, *case.windows)
    close((scattered * case.images).sum(), (case.maps * gathered).sum())


@pytest.mark.parametrize("mode", ["sum", "average_inc_pad", "average_exc_pad"])
@given(case=pools())
def test_average_pool2d_grad_is_adjoint_to_the_average(mode, case):
    forward = reference.average_pool2d(case.images, *case.windows, case.ignore_border, mode)
    spread = reference.average_pool2d_grad(case.maps, *case.rows_and_columns, *case.windows, mode)
    close((forward * case.maps).sum(), (spread * case.images).sum())
