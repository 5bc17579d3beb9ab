"""Results of no axes stay what they were, however many launches follow; they are copied only where they are held."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

torch = pytest.importorskip("torch", reason="mode CUDA is built on torch: pip install torch")

from pytensor_convnet.cuda import rings  # noqa: E402


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Rings of three slots."""
    monkeypatch.setattr(rings, "LENGTH", 3)


@pytest.fixture
def sums(mode):
    """A function of i: the sum of two entries from 2 * i on, and, of another dtype, that number."""
    data = pytensor.shared(np.arange(40, dtype="float32"), shape=(40,))
    i = pt.lscalar("i")
    rows = data[2 * i : 2 * i + 2]
    return pytensor.function([i], [rows.sum(), pt.argmax(rows) + data.sum().astype("int64"), rows], mode=mode)


def test_results_that_are_kept_stay_what_they_were(sums):
    kept = [sums(i) for i in range(14)]
    for i, (total, whole, rows) in enumerate(kept):
        assert (float(total), int(whole)) == (4 * i + 1, 781)
        assert rows.tolist() == [2 * i, 2 * i + 1]


def test_results_that_are_read_at_once_stay_what_they_were(sums):
    kept = []
    for i in range(14):
        total = sums(i)[0]
        kept.append((total, np.asarray(total)))
        assert float(total) == 4 * i + 1
    assert [(float(total), float(array)) for total, array in kept] == [(4 * i + 1,) * 2 for i in range(14)]


def test_an_error_while_a_ring_is_copied_loses_nothing(sums, monkeypatch):
    kept = [sums(i)[0] for i in range(4)]  # the first step by step, and three launches
    clone = torch.Tensor.clone

    def without_memory(*arguments, **named):
        raise torch.cuda.OutOfMemoryError("none left")

    monkeypatch.setattr(torch.Tensor, "clone", without_memory)
    with pytest.raises(MemoryError):
        sums(4)
    monkeypatch.setattr(torch.Tensor, "clone", clone)
    kept += [sums(i)[0] for i in range(4, 12)]
    assert [float(total) for total in kept] == [4 * i + 1 for i in range(12)]


def test_a_result_is_passed_on_as_it_was(sums, mode):
    x = pt.fscalar("x")
    double = pytensor.function([x], 2 * x, mode=mode)
    kept = [sums(i)[0] for i in range(8)]
    assert [float(double(total)) for total in kept] == [8 * i + 2 for i in range(8)]


def test_a_tensor_that_is_taken_from_a_result_stays_what_it_was(sums):
    taken = [sums(i)[0].tensor for i in range(8)]
    assert [float(tensor) for tensor in taken] == [4 * i + 1 for i in range(8)]


def test_a_ring_is_copied_once_it_is_full_and_only_for_arrays_that_are_held(sums, monkeypatch):
    copied = []
    move = rings.DeviceArray.move

    def noted(array, tensor):
        copied.append(float(tensor))
        move(array, tensor)

    monkeypatch.setattr(rings.DeviceArray, "move", noted)
    sums(0)  # runs step by step
    kept = sums(1)[0]  # the first launch
    for i in range(2, 8):
        sums(i)
    assert copied == [5.0]
    assert float(kept) == 5


def test_results_of_another_function_copied_from_it_are_its_own(sums):
    other = sums.copy()
    kept = [function(i)[0] for i in range(9) for function in (sums, other)]
    assert [float(total) for total in kept] == [4 * i + 1 for i in range(9) for _ in range(2)]
