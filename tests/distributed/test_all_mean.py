"""Means over two processes: values in every mode, gradients, order, and what else processes tell one another."""

import numpy as np
import pytest

from tests.distributed.launching import DEVICE, PROGRAMS, launch

MATRIX = np.arange(6, dtype="float32").reshape(2, 3)
VECTOR = np.arange(4.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each process got."""
    folder = tmp_path_factory.mktemp("means")
    launched = launch(PROGRAMS / "means.py", DEVICE, folder)
    assert launched.returncode == 0, launched.stderr
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


def test_both_processes_take_part(results):
    np.testing.assert_array_equal([result["rank and count"] for result in results], [[0, 2], [1, 2]])


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "CVM", "NUMBA", "CUDA"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("matrix", MATRIX.T / 2), ("vector", VECTOR[::-1] + 0.5), ("scalar", np.array(0.5, "float32"))],
)
def test_every_process_gets_the_mean(results, mode, name, expected):
    for result in results:
        mean = result[f"{mode} {name}"]
        assert mean.dtype == expected.dtype
        np.testing.assert_array_equal(mean, expected)


def test_the_gradient_is_the_mean_of_all_processes_gradients(results):
    """Losses are m**2 and 2 m**2 of the mean m = 2.5; each gradient passes through the mean."""
    for result in results:
        assert result["gradient"] == (2 * 2.5 + 2 * 2 * 2.5) / 2


def test_means_of_means_are_taken_one_after_the_other(results):
    """Of z = 0 and 1 the mean is 0.5; of 0.5 (1 + z) it is 0.75."""
    for result in results:
        assert result["chain"] == 0.75 + 0.5


def test_means_of_half_precision_do_not_overflow(results):
    for result in results:
        assert np.ptp(result["halves"][:2]) == 0
        np.testing.assert_allclose(result["halves"], [60_000, 60_000, 0.5, 0.5, 0.5], rtol=1e-3)


def test_a_rehearsal_is_each_processs_own(results):
    assert [result["rehearsed"] for result in results] == [0, 1]


def test_totals_are_the_same_everywhere(results):
    for result in results:
        np.testing.assert_array_equal(result["total"], [2, 1])
        np.testing.assert_array_equal(result["any"], [True, False])


def test_the_first_process_gives_its_arrays_to_all(results):
    for result in results:
        np.testing.assert_array_equal(result["from first"], MATRIX)
        np.testing.assert_array_equal(result["integers from first"], [0, 1, 2])
