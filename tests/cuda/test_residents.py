"""A shared variable is one value for functions of all modes."""

import pickle

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet.cuda.residents import last_change
from pytensor_convnet.placement import values_soon

OTHER_MODES = ["FAST_COMPILE", "NUMBA"]


def functions(mode, value, variable=None):
    """Add a number to a shared variable, and read it."""
    w = pytensor.shared(value, name="w") if variable is None else variable
    x = pt.fscalar("x")
    return w, pytensor.function([x], updates={w: w + x}, mode=mode), pytensor.function([], 1 * w, mode=mode)


@pytest.mark.parametrize("other", OTHER_MODES)
@pytest.mark.parametrize("compiled_first", ["CUDA", "other"])
def test_functions_of_two_modes_see_each_others_updates(mode, other, compiled_first):
    w = pytensor.shared(np.zeros(2, "float32"), name="w")
    order = [mode, other] if compiled_first == "CUDA" else [other, mode]
    made = {id(m): functions(m, None, w) for m in order}
    _, add_here, read_here = made[id(mode)]
    _, add_there, read_there = made[id(other)]
    for step in range(4):
        add_here(1)
        assert np.asarray(read_there())[0] == 3 * step + 1
        add_there(2)
        assert np.asarray(read_here())[0] == 3 * step + 3
        assert w.get_value()[0] == 3 * step + 3


def test_get_value_is_numpy_and_set_value_takes_numpy(mode):
    w, add, read = functions(mode, np.zeros(2, "float32"))
    for _ in range(3):
        add(1)
    assert type(w.get_value()) is np.ndarray
    np.testing.assert_array_equal(w.get_value(borrow=True), [3, 3])
    w.set_value(np.full(2, 7, "float32"))
    add(1)
    np.testing.assert_array_equal(read(), [8, 8])


def test_reading_a_value_does_not_bring_it_to_the_device_again(mode):
    w, add, _ = functions(mode, np.zeros(2, "float32"))
    add(1)
    before = last_change()
    copied = w.get_value()
    copied[:] = 9  # a copy
    assert last_change() == before + 1  # the host's is current, too
    resident = w.container.resident
    assert resident.device_current
    assert resident.host_current
    add(1)
    np.testing.assert_array_equal(w.get_value(), [2, 2])
    w.get_value(borrow=True)
    assert not resident.device_current  # whoever has it may write


def test_a_value_that_is_read_later_is_that_of_the_moment_when_it_was_asked_for(mode):
    w, add, _ = functions(mode, np.zeros(2, "float32"))
    for step in range(3):
        add(1)
        soon = values_soon({"w": w})["w"]
        add(1)
        np.testing.assert_array_equal(np.asarray(soon), 2 * [2 * step + 1])
    w.get_value()
    soon = values_soon({"w": w})["w"]
    assert type(soon) is np.ndarray
    w.set_value(np.ones(2, "float32"))
    np.testing.assert_array_equal(soon, [6, 6])


def test_a_value_that_was_read_does_not_change_later(mode):
    w, add, _ = functions(mode, np.zeros(2, "float32"))
    add(1)
    value = w.get_value(borrow=True)
    for _ in range(3):
        add(1)
    np.testing.assert_array_equal(value, [1, 1])


def test_values_of_other_shapes_come_and_go(mode):
    w = pytensor.shared(np.ones(3, "float32"), shape=(None,))
    total = pytensor.function([], w.sum(), mode=mode)
    for length in (3, 5, 3, 5, 3):
        w.set_value(np.ones(length, "float32"))
        assert [float(total()) for _ in range(2)] == [length, length]


def test_the_wrong_type_is_refused_and_the_value_kept(mode):
    w, add, read = functions(mode, np.zeros(2, "float32"))
    add(1)
    with pytest.raises(TypeError):
        w.set_value(np.zeros((2, 2), "float32"))
    np.testing.assert_array_equal(read(), [1, 1])


def test_shared_variables_are_pickled_with_their_present_value(mode):
    w, add, _ = functions(mode, np.zeros(2, "float32"))
    add(5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(w)).get_value(), [5, 5])


@pytest.mark.parametrize("other", OTHER_MODES)
def test_functions_of_other_modes_are_pickled_with_present_values(mode, other):
    w, add, _ = functions(mode, np.zeros(2, "float32"))
    read = pytensor.function([], 1 * w, mode=other)
    add(5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(read))(), [5, 5])


def test_a_network_and_its_function_are_pickled_together(mode):
    w, add, read = functions(mode, np.zeros(2, "float32"))
    add(1)
    w2, add2, read2 = pickle.loads(pickle.dumps((w, add, read)))
    add2(1)
    np.testing.assert_array_equal(read2(), [2, 2])
    np.testing.assert_array_equal(w2.get_value(), [2, 2])
    np.testing.assert_array_equal(read(), [1, 1])


def test_memory_is_free_when_a_variable_is_gone(mode):
    import gc
    import weakref

    w, add, read = functions(mode, np.zeros(2, "float32"))
    add(1)
    tensor = weakref.ref(w.container.resident.tensor())
    del w, add, read
    gc.collect()
    assert tensor() is None


def test_new_shapes_of_one_value_are_two_variables_memory(mode):
    a, b = (pytensor.shared(np.zeros(1, "float32"), shape=(None,)) for _ in range(2))
    x = pt.fvector("x")
    both = pt.exp(x)
    result = pytensor.function([x], pt.alloc(both, 1, both.shape[0]), updates={a: both, b: both}, mode=mode)(
        np.zeros(2, "float32")
    )
    add = pytensor.function([], updates={a: a + 1}, mode=mode)
    add(), add()
    np.testing.assert_array_equal(a.get_value(), [3, 3])
    np.testing.assert_array_equal(b.get_value(), [1, 1])
    np.testing.assert_array_equal(result, [[1, 1]])


def test_a_shape_may_come_back_before_an_update_that_changes_it(mode):
    w = pytensor.shared(np.zeros(3, "float32"), shape=(None,))
    shorten = pytensor.function([], updates={w: w[:2] + 1}, mode=mode)
    for _ in range(4):
        w.set_value(np.zeros(3, "float32"))
        shorten()
        np.testing.assert_array_equal(w.get_value(), [1, 1])


def test_what_is_written_into_a_borrowed_value_is_seen(mode):
    w, _, read = functions(mode, np.ones(2, "float32"))
    read(), read()
    w.zero(borrow=True)
    np.testing.assert_array_equal(read(), [0, 0])
    w.get_value(borrow=True)[:] = 5
    np.testing.assert_array_equal(read(), [5, 5])
