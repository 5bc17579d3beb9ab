"""Numbers of a captured step are on the device when it begins, and are written no oftener than they have to be."""

import pytest

torch = pytest.importorskip("torch", reason="mode CUDA is built on torch: pip install torch")

from pytensor_convnet.cuda.numbers import Numbers  # noqa: E402


class Step:
    """A step that notes what it reads, and adds increments when it ends."""

    def __init__(self, *values, growing=()):
        self.tensors = [torch.tensor(value) for value in values]
        self.numbers = Numbers([*self.tensors], list(values), growing)
        self.writes = 0
        for tensor in (*self.tensors, *self.numbers.increments.values()):
            self._count_writes(tensor)

    def _count_writes(self, tensor):
        fill = tensor.fill_

        def counted(value):
            self.writes += 1
            return fill(value)

        tensor.fill_ = counted

    def __call__(self, *values):
        """What the device reads, and how many numbers were written for it."""
        self.writes = 0
        self.numbers.write(values)
        read = [tensor.item() for tensor in self.tensors]
        for place, increment in self.numbers.increments.items():
            self.tensors[place].add_(increment)
        self.numbers.launched()
        return read, self.writes


def test_what_is_the_same_as_before_is_not_written():
    step = Step(3, 0.5)
    assert step(3, 0.5) == ([3, 0.5], 0)
    assert step(4, 0.5) == ([4, 0.5], 1)
    assert step(4, 0.5) == ([4, 0.5], 0)


def test_what_goes_up_by_the_same_is_written_until_that_is_known():
    step = Step(0, growing=[0])
    found = [step(128 * i) for i in range(6)]
    assert [read for read, _ in found] == [[128 * i] for i in range(6)]
    assert [writes for _, writes in found] == [0, 1, 2, 0, 0, 0]


def test_what_begins_anew_is_written_once():
    step = Step(0, growing=[0])
    for i in (0, 1, 2, 3):
        step(i)
    assert [step(i) for i in (0, 1, 2)] == [([0], 1), ([1], 0), ([2], 0)]


def test_whatever_comes_is_read():
    step = Step(0, growing=[0])
    values = [0, 5, 10, 10, 10, 3, -4, -11, 7, 7, 8, 9, 2**40, 0]
    assert [step(value)[0] for value in values] == [[value] for value in values]


def test_what_was_not_launched_is_written_again():
    step = Step(0, growing=[0])
    for i in (0, 1, 2, 3):
        step(i)
    step.numbers.write([4])  # and then an interrupt, after which it is not known whether the step ran
    step.tensors[0].add_(1)
    assert step(4) == ([4], 1)


def test_zero_may_change_its_sign():
    step = Step(0.0)
    assert str(step(-0.0)[0]) == "[-0.0]"


def test_tensors_are_read_as_they_are_and_what_follows_is_written():
    step = Step(1.5)
    assert step(torch.tensor(2.5))[0] == [2.5]
    assert step(1.5) == ([1.5], 1)


def test_what_is_written_elsewhere_is_left_alone():
    own = torch.tensor(1)
    numbers = Numbers([None, own], [7, 1], growing=[0, 1])
    numbers.write([8, 2])
    assert list(numbers.increments) == [1]
    assert own.item() == 2


def test_an_interrupt_while_an_increment_is_written_leaves_it_unknown():
    step = Step(0, growing=[0])
    for i in (0, 5):
        step(i)
    increment, fill = step.numbers.increments[0], step.numbers.increments[0].fill_

    def interrupted(value):
        fill(value)
        raise KeyboardInterrupt

    increment.fill_ = interrupted
    with pytest.raises(KeyboardInterrupt):
        step(10)
    increment.fill_ = fill
    values = [0, 0, 3, 0, 3, 3, 6, 9, 12]
    assert [step(value)[0] for value in values] == [[value] for value in values]
