"""Parts that are translated compute what Python computes from the same source."""

from typing import NamedTuple

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError
from numba.core.runtime import rtsys
from numba.core.runtime._nrt_python import memsys_disable_stats, memsys_enable_stats

from pytensor_convnet.geometry import CORRELATION, ShapeError, correlation_length
from pytensor_convnet.kernels.cpu.jit import leaf_part, part, plain_part
from pytensor_convnet.kernels.cpu.memory import new_array

_SIZES = (8, 4, 2)
_TABLE = np.array([5.0, 7.0, 11.0])


class _Pair(NamedTuple):
    low: int
    high: int


def _run(function, *arguments, kind=plain_part):
    """What a function returns when it is a part."""
    translated = kind(function)
    return numba.njit(lambda some: translated(*some))(arguments)


def _quotients(a, b):
    return a // b, a % b, divmod(a, b), a // 8, a % 8, -(-a // b)


def _halves(a, b):
    return a / b, a * 0.5 - b, min(a / b, 1), max(b, 2, a), abs(a)


def _signs(a, b):
    return (
        a < b <= 3,
        not (a == b and b > 0),
        (a, b) == (a, 3),
        (a, b) != (3, 3),
        -a,
        (a < b) & (b > 0),
        (a < b) | (b > 0),
    )


@pytest.mark.parametrize("function", [_quotients, _halves, _signs])
@pytest.mark.parametrize("a", [-17, -8, 0, 3, 16])
@pytest.mark.parametrize("b", [-5, 3, 8])
def test_arithmetic(function, a, b):
    assert _run(function, a, b) == function(a, b)


def _steps(count):
    up = down = some = 0
    for i in range(count):
        up = up * 2 + i
    for i in range(count - 1, -1, -2):
        down = down * 3 + i
    for i in range(2, count, 3):
        if i == 5:
            continue
        if i > 8:
            break
        some += i
    while up > 100:
        up -= 100
    return up, down, some


def _largest_size(count):
    for size in _SIZES:
        if size <= count:
            return size
    return 0


def _choose(count):
    low, high = (count, 9) if count < 9 else (9, count)
    table = _TABLE[min(count, 2)] if count > 0 else 0.5
    return _Pair(low, high).high, table, _SIZES[count % 3]


@pytest.mark.parametrize("function", [_steps, _largest_size, _choose])
@pytest.mark.parametrize("count", [0, 1, 4, 9, 12])
def test_control_flow(function, count):
    assert _run(function, count) == function(count)


def _first_above(numbers, bound):
    i = 0
    while i < numbers.size and not numbers[i] > bound:
        i += 1
    return i


@pytest.mark.parametrize("bound", [-1, 2.5, 99])
def test_what_need_not_be_looked_at_is_not(bound):
    numbers = np.arange(6, dtype=np.float32)
    guarded = np.full(8, 1e9, np.float32)
    guarded[:6] = numbers
    assert _run(_first_above, guarded[:6], bound, kind=leaf_part) == _first_above(numbers, bound)


def _cut(array, low, high, direction):
    plane = array[1, :, low:high]
    plane[0, 0] += 100
    turned = array[:, :, ::direction]
    row = array[0, 1]
    row[1:3] = -1
    return turned[0, 2, 0] + row[-1] + plane.shape[1] + turned.strides[2] // turned.itemsize + array[1][1, 2]


@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize("high", [3, 9])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0)])
def test_views(direction, high, axes):
    expected = np.arange(60.0).reshape(3, 4, 5).transpose(axes)
    found = expected.copy(order="K")
    assert _run(_cut, found, 1, high, direction, kind=leaf_part) == _cut(expected, 1, high, direction)
    np.testing.assert_array_equal(found, expected)


def _fill(array, numbers, flags):
    array[:] = 3
    array[1] = 2.5
    numbers[1 : -1 + numbers.size] = 7
    numbers[-1] += array[1, 1] > 2
    flags[0] = numbers[0] == 0
    total = 0
    for number in numbers:
        total += number
    return total


def test_arrays_are_filled():
    arguments = [np.zeros((3, 2), np.float32), np.zeros(6, np.int64), np.ones(2, np.bool_)]
    expected = [array.copy() for array in arguments]
    assert _run(_fill, *arguments) == _fill(*expected)
    for found, wanted in zip(arguments, expected):
        np.testing.assert_array_equal(found, wanted)


@plain_part
def _counted(count):
    numbers = new_array((count,), np.int64)
    for i in range(count):
        numbers[i] = i
    return numbers


def _tails(count):
    total = 0
    for size in range(count):
        numbers = _counted(size)
        for number in numbers:
            total += number
        if total > 50:
            return numbers[1:], total
    return _counted(count), total


def test_memory_is_kept_for_as_long_as_it_is_used_and_no_longer():
    translated = plain_part(_tails)
    call = numba.njit(lambda count: translated(count))
    call(1)
    memsys_enable_stats()
    before = rtsys.get_allocation_stats()
    for count, last in ((4, 3), (12, 6)):
        numbers, total = call(count)
        assert numbers[-1] == last
        assert total == sum(sum(range(size)) for size in range(8 if count == 12 else count))
        del numbers
    after = rtsys.get_allocation_stats()
    assert after.alloc - before.alloc == after.free - before.free > 0
    memsys_disable_stats()


def test_parts_of_numba_and_geometry_are_called():
    @part
    def halve(numbers):
        return numbers / 2

    def add(numbers):
        return halve(numbers)[1] + correlation_length(10, 3, 2, 1, 1, 2)

    assert _run(add, np.array([2.0, 4.0])) == 2 + correlation_length(10, 3, 2, 1, 1, 2)


def _check(number):
    if number < 0:
        raise ValueError("a negative number")
    if number > 9:
        raise ShapeError(CORRELATION, *(number, 2, 3, 4), 1, 2, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1, 2)
    return number


def test_exceptions_carry_what_they_are_given():
    with pytest.raises(ValueError, match="a negative number"):
        _run(_check, -1)
    with pytest.raises(ShapeError, match="12"):
        _run(_check, 12)
    assert _run(_check, 5) == 5


def _power(number):
    return number**2


def _whole(number):
    total = 0
    total += number / 2
    return total


def _handed_on(count):
    numbers = _counted(1)
    for size in range(count):
        numbers = _counted(size)
    return numbers


@pytest.mark.parametrize(
    ("function", "problem"),
    [(_power, "Pow"), (_whole, "float64 where int64 is needed"), (_handed_on, "memory that a loop takes")],
)
def test_what_cannot_be_translated_is_named_with_its_place(function, problem):
    with pytest.raises(NumbaError, match=problem) as caught:
        _run(function, 3)
    assert "test_translation.py" in str(caught.value)
