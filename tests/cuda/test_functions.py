"""Functions of mode CUDA: what they return, how they are captured, what becomes of errors."""

import copy
import pickle

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.raise_op import assert_op

from pytensor_convnet.cuda import DeviceArray, cuda_mode
from pytensor_convnet.cuda.devices import DeviceUnavailable


def test_the_mode_is_known_by_its_name():
    assert pytensor.compile.mode.get_mode("CUDA") is pytensor.compile.mode.predefined_modes["CUDA"]


def test_without_a_gpu_an_error_says_what_is_missing(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.delenv("PYTENSOR_CONVNET_DEVICE", raising=False)
    x = pt.fvector("x")
    with pytest.raises(DeviceUnavailable, match="needs an NVIDIA GPU(?s:.*)PYTENSOR_CONVNET_DEVICE=cpu"):
        pytensor.function([x], x + 1, mode="CUDA")


def test_the_environment_names_the_device(monkeypatch):
    monkeypatch.setenv("PYTENSOR_CONVNET_DEVICE", "cpu")
    x = pt.fvector("x")
    function = pytensor.function([x], x + 1, mode="CUDA")
    assert function(np.ones(2, "float32")).tensor.device.type == "cpu"


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(ValueError, match="precision must be one of medium, high, ieee, bf16, got 'low'"):
        cuda_mode("low")


def test_results_are_arrays(mode):
    x = pt.fvector("x")
    total, doubled = pytensor.function([x], [x.sum(), 2 * x], mode=mode)(np.arange(3, dtype="float32"))
    assert isinstance(total, DeviceArray)
    assert (float(total), int(total), total + 1, total > 2) == (3.0, 3, 4.0, True)
    assert (doubled.shape, doubled.dtype, doubled.ndim, len(doubled)) == ((3,), np.float32, 1, 3)
    assert f"{total:.2f}" == "3.00"
    assert "DeviceArray([0., 2., 4.]" in repr(doubled)
    np.testing.assert_array_equal(np.concatenate([doubled, [1]]), [0, 2, 4, 1])
    np.testing.assert_array_equal(doubled[1:] * doubled[1:], [4, 16])
    assert doubled.mean() == 2


def test_a_result_stays_when_the_function_is_called_again(mode):
    x = pt.fvector("x")
    function = pytensor.function([x], x + 1, mode=mode)
    results = [function(np.full(2, i, "float32")) for i in range(6)]
    assert [float(result[0]) for result in results] == [1, 2, 3, 4, 5, 6]


def test_results_and_tensors_are_arguments_again(mode, device):
    x = pt.fvector("x")
    function = pytensor.function([x], x + 1, mode=mode)
    once = function(torch.zeros(3, device=device))
    for _ in range(3):
        once = function(once)
    np.testing.assert_array_equal(once, [4, 4, 4])


def test_an_argument_of_the_wrong_kind_is_refused(mode, device):
    x = pt.fvector("x")
    function = pytensor.function([x], x + 1, mode=mode, name="increment")
    for wrong in (np.zeros((2, 2), "float32"), torch.zeros(2, 2, device=device), np.zeros(2)):
        with pytest.raises(TypeError) as caught:
            function(wrong)
        assert any("argument x of increment, at index 0" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match="Missing"):
        function()


def test_arguments_by_name(mode):
    x, y = pt.fscalars("x", "y")
    function = pytensor.function([x, y], x - y, mode=mode)
    assert [float(function(3, 1)), float(function(3, y=2)), float(function(y=3, x=1))] == [2, 1, -2]


def test_a_loop_over_minibatches_is_captured_once_for_each_length(mode):
    data = pytensor.shared(np.arange(10, dtype="float32"), shape=(None,))
    i = pt.lscalar("i")
    function = pytensor.function([i], data[i * 4 : (i + 1) * 4].sum(), mode=mode)
    for _ in range(3):
        assert [float(function(k)) for k in range(3)] == [6, 22, 17]
    assert len(function.vm.captures) == 2


def test_a_window_may_hang_over_an_end_or_have_steps(mode):
    data = pytensor.shared(np.arange(10, dtype="float32"), shape=(None,))
    i = pt.lscalar("i")
    function = pytensor.function([i], [data[i : i + 3], data[i::-2], data[-i:], data[i]], mode=mode)
    values = np.arange(10, dtype="float32")
    for _ in range(3):
        for k in (1, 4, 8):
            expected = [values[k : k + 3], values[k::-2], values[-k:], values[k]]
            for got, want in zip(function(k), expected):
                np.testing.assert_array_equal(got, want)
    with pytest.raises(IndexError, match="index 10 is out of bounds for axis 0"):
        function(10)


@pytest.mark.parametrize("lengths", [(11, 11), (11, 7)], ids=str)
def test_windows_with_the_same_bounds(mode, lengths):
    arrays = [np.arange(length, dtype="float32") for length in lengths]
    x, y, i = *(pytensor.shared(array, shape=(None,)) for array in arrays), pt.lscalar("i")
    here = slice(i * 4, (i + 1) * 4)
    function = pytensor.function([i], [x[here], y[here].sum()], mode=mode)
    for number in (0, 0, 1, 0, 2, 2, 1, 2):
        first, second = (array[4 * number : 4 * number + 4] for array in arrays)
        got = function(number)
        np.testing.assert_array_equal(got[0], first)
        assert float(got[1]) == second.sum()


def test_a_written_window(mode):
    buffer = pytensor.shared(np.zeros(6, "float32"), shape=(6,))
    i = pt.lscalar("i")
    function = pytensor.function([i], updates={buffer: buffer[i : i + 2].set(pt.cast(i, "float32") + 1)}, mode=mode)
    for k in (0, 2, 4):
        function(k)
    np.testing.assert_array_equal(buffer.get_value(), [1, 1, 3, 3, 5, 5])


def test_a_shared_counter_stays_on_the_host(mode):
    data = pytensor.shared(np.arange(8, dtype="float32"), shape=(8,))
    i = pytensor.shared(np.int64(0))
    function = pytensor.function([], data[i * 2 : i * 2 + 2].sum(), updates={i: (i + 1) % 4}, mode=mode)
    assert [float(function()) for _ in range(6)] == [1, 5, 9, 13, 1, 5]
    assert i.get_value() == 2
    assert len(function.vm.captures) == 1


def test_a_checked_length_is_captured(mode):
    x, y = pt.fvector("x"), pt.ivector("y")
    length = assert_op(y.shape[0], pt.eq(x.shape[0], y.shape[0]))
    function = pytensor.function([x, y], pt.exp(pt.arange(length)), mode=mode, on_unused_input="ignore")
    for _ in range(3):
        assert function(np.ones(3, "float32"), np.zeros(3, "int32")).shape == (3,)
    assert len(function.vm.captures) == 1
    with pytest.raises(AssertionError):
        function(np.ones(3, "float32"), np.zeros(2, "int32"))


def test_numbers_that_shapes_depend_on(mode):
    n = pt.lscalar("n")
    function = pytensor.function([n], [pt.arange(n), pt.zeros((n, 2)), n + 1], mode=mode)
    for k in (2, 3, 2, 2):
        numbers, zeros, successor = function(k)
        assert (numbers.shape, zeros.shape, int(successor)) == ((k,), (k, 2), k + 1)


def test_new_shapes_are_captured_anew_and_old_ones_kept(mode):
    x = pt.fmatrix("x")
    function = pytensor.function([x], (x * 2).sum(axis=0), mode=mode)
    for _ in range(3):
        for rows in (2, 5, 3):
            np.testing.assert_array_equal(function(np.ones((rows, 4), "float32")), np.full(4, 2 * rows))
    assert len(function.vm.captures) == 3


def test_captures_are_bounded(mode):
    from pytensor_convnet.cuda.execution import MOST_CAPTURES

    x = pt.fvector("x")
    function = pytensor.function([x], x.sum(), mode=mode)
    for length in range(1, MOST_CAPTURES + 10):
        assert float(function(np.ones(length, "float32"))) == float(function(np.ones(length, "float32"))) == length
    assert len(function.vm.captures) == MOST_CAPTURES


READ_ON_THE_HOST = {
    "how many entries a mask selects": lambda x: x[x > 0].sum(),
    "how many different entries there are": lambda x: pt.unique(pt.maximum(x, 0)).sum(),
    "whether it succeeded": lambda x: pt.linalg.inv(pt.diag(1 / pt.maximum(x, 1))).sum() - 1,
}


@pytest.mark.parametrize("what", READ_ON_THE_HOST)
def test_what_reads_the_host_is_named_once_and_runs(mode, what):
    x = pt.fvector("x")
    with pytest.warns(UserWarning, match=f"cannot be captured(?s:.*){what}"):
        function = pytensor.function([x], READ_ON_THE_HOST[what](x), mode=mode)
    assert [float(function(np.array([1, -2, 3], "float32"))) for _ in range(3)] == [4, 4, 4]
    assert not function.vm.captures


def test_a_shape_that_depends_on_data_is_named(mode):
    x = pt.fvector("x")
    with pytest.warns(UserWarning, match="argmax|Argmax"):
        function = pytensor.function([x], x[: pt.argmax(x)], mode=mode)
    np.testing.assert_array_equal(function(np.array([1, 5, 9, 2], "float32")), [1, 5])


def test_functions_are_copied_and_pickled_as_in_other_modes(mode):
    found = []
    for each in (mode, "FAST_COMPILE"):
        w = pytensor.shared(np.zeros(2, "float32"), name="w")
        x = pt.fvector("x")
        function = pytensor.function([x], (w * x).sum(), updates={w: w + x}, mode=each)
        one = np.ones(2, "float32")
        values = [float(function(one)) for _ in range(3)]
        restored = pickle.loads(pickle.dumps(function))
        copied = copy.copy(function)
        values += [float(f(one)) for f in (restored, restored, function, copied, function)]
        found.append((values, w.get_value().tolist()))
    assert found[0] == found[1]
    assert found[0][0][:6] == [0, 2, 4, 6, 8, 6]


def test_an_error_leaves_shared_variables_as_they_were(mode, monkeypatch):
    w, v = (pytensor.shared(np.full(2, 3, "float32"), name=name) for name in "wv")
    x = pt.fvector("x")
    function = pytensor.function([x], updates={w: w + 1, v: v * x}, mode=mode)
    function(np.ones(2, "float32"))
    with pytest.raises(ValueError, match="broadcast"):
        function(np.ones(1, "float32"))

    def no_memory(*arguments):
        raise torch.cuda.OutOfMemoryError("Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(function.vm.program, "run", no_memory)
    function.vm.captures.clear()
    with pytest.raises(MemoryError, match="not enough memory(?s:.*)as they were before the call"):
        function(np.ones(2, "float32"))
    assert (w.get_value()[0], v.get_value()[0]) == (4, 3)


def test_new_values_may_be_each_others_old_ones(mode):
    a, b = (pytensor.shared(np.full(2, value, "float32")) for value in (1, 2))
    swap = pytensor.function([], [a, b], updates={a: b, b: a}, mode=mode)
    for step in range(4):
        old = [float(x[0]) for x in swap()]
        assert old == ([1, 2] if step % 2 == 0 else [2, 1])


def test_an_update_may_change_a_shape(mode):
    stack = pytensor.shared(np.zeros(1, "float32"), shape=(None,))
    x = pt.fscalar("x")
    push = pytensor.function([x], stack.shape[0], updates={stack: pt.concatenate([stack, x[None]])}, mode=mode)
    assert [int(push(value)) for value in range(1, 5)] == [1, 2, 3, 4]
    np.testing.assert_array_equal(stack.get_value(), [0, 1, 2, 3, 4])


def test_givens_and_functions_without_outputs(mode):
    x = pt.fvector("x")
    data = pytensor.shared(np.arange(3, dtype="float32"))
    assert float(pytensor.function([], x.sum(), givens={x: data}, mode=mode)()) == 3
    assert not pytensor.function([], None, updates={data: data + 1}, mode=mode)()
    np.testing.assert_array_equal(data.get_value(), [1, 2, 3])


def test_importing_the_package_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, pytensor_convnet; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_add_up(mode):
    x = pt.fvector("x")
    function = pytensor.function([x], x.sum(), mode=mode)
    total = function(np.ones(2, "float32"))
    total += function(np.ones(3, "float32"))
    assert total == 5


def test_a_result_that_is_written_to_changes_no_other(mode):
    x = pt.fvector("x")
    function = pytensor.function([x], [x.shape, pt.ones((x.shape[0],))], mode=mode)
    shape, ones = function(np.ones(3, "float32"))
    shape[0] = 9
    np.asarray(ones)[0] = 9
    np.testing.assert_array_equal(ones, [9, 1, 1])
    np.testing.assert_array_equal(function(np.ones(3, "float32"))[0], [3])


def test_a_tensor_of_another_dtype_is_converted(mode, device):
    x = pt.dvector("x")
    function = pytensor.function([x], [2 * x, x], mode=mode)
    for value in (torch.ones(2, dtype=torch.int64, device=device), np.array([0.1, 0.5])):
        for _ in range(3):
            doubled, same = function(value)
            assert doubled.dtype == same.dtype == np.float64
    np.testing.assert_array_equal(doubled, [0.2, 1.0])


def test_a_captured_number_may_change_its_sign_at_zero(mode):
    x, a = pt.fvector("x"), pt.fscalar("a")
    function = pytensor.function([x, a], x / a, mode=mode)
    for _ in range(3):
        for zero in (0.0, -0.0):
            assert np.signbit(np.asarray(function(np.ones(1, "float32"), np.float32(zero)))[0]) == np.signbit(zero)


@pytest.mark.parametrize("bounds", [(None, 0), (0, None), (0, 1)])
def test_a_slices_bounds_may_be_arguments(mode, bounds):
    data = pytensor.shared(np.arange(10, dtype="float32"), shape=(None,))
    numbers = pt.lscalars("i", "j")
    start, stop = (None if place is None else numbers[place] for place in bounds)
    function = pytensor.function([*numbers], data[start:stop], mode=mode, on_unused_input="ignore")
    for i, j in [(2, 5), (2, 5), (2, 5), (3, 5), (-4, -1)]:
        start, stop = (None if place is None else (i, j)[place] for place in bounds)
        np.testing.assert_array_equal(function(i, j), np.arange(10)[start:stop])


def test_vectors_that_are_split_elsewhere_are_captured_apart(mode):
    numbers, i, x = pt.constant(np.arange(4, dtype="float32")), pt.lscalar("i"), pt.fvector("x")
    parts = [pt.concatenate([numbers[:i], x]), pt.concatenate([numbers[i:], x])]
    function = pytensor.function([i, x], parts, mode=mode)
    for k in (1, 1, 1, 2, 2, 2):
        assert [len(part) for part in function(k, np.ones(1, "float32"))] == [k + 1, 5 - k]


def test_a_quotient_by_zero_leaves_no_half_done_call(mode):
    w, i = pytensor.shared(np.zeros(1, "float32")), pt.lscalar("i")
    function = pytensor.function([i], [10 // i, 10 % i], updates={w: w + 1}, mode=mode)
    found = [[int(x) for x in function(k)] for k in (1, 1, 3, 0)]
    assert found == [[10, 0], [10, 0], [3, 1], [0, 0]]
    assert w.get_value() == 4


def test_captures_that_chase_each_other_become_rare(mode, monkeypatch):
    from pytensor_convnet.cuda import execution

    made = []
    capture = execution.Capture
    monkeypatch.setattr(execution, "Capture", lambda *arguments: made.append(0) or capture(*arguments))
    x = pt.fvector("x")
    function = pytensor.function([x], x.sum(), mode=mode)
    for _ in range(20):
        for length in range(1, execution.MOST_CAPTURES + 3):
            function(np.ones(length, "float32"))
    assert len(made) < 2 * execution.MOST_CAPTURES


def test_small_arrays_of_the_host_do_not_pile_up(mode, monkeypatch):
    from pytensor_convnet.cuda import execution

    monkeypatch.setattr(execution, "MOST_UPLOADED", 8)
    x, i = pt.fvector("x"), pt.lscalar("i")
    function = pytensor.function([i, x], pt.stack([i, i + 1]).astype("float32") * x, mode=mode)
    for k in range(40):
        np.testing.assert_array_equal(function(k, np.ones(2, "float32")), [k, k + 1])
    assert len(function.vm.program.target.uploaded) <= 10
