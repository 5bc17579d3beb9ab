"""The numbers that a captured step reads on the device, written before a launch where they are not there already.

Minibatches begin later by the same at each call. So a step adds to such a number what it went up by, when it ends, and
as long as that is right nothing is written between two launches, which would cost the device some microseconds.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch


class Numbers:
    """Numbers on the device.

    Parameters
    ----------
    tensors : list of tensor or None
        Where they are; None for one that is written elsewhere already.
    values : list of number
        What they are now.
    growing : iterable of int
        The places of integers to which the step adds their increment.

    Attributes
    ----------
    increments : dict of int to tensor
        What the step adds, by place; zero at first.
    """

    def __init__(self, tensors: list[torch.Tensor | None], values: Sequence[Any], growing: Iterable[int]) -> None:
        self.tensors = tensors
        places = {place: tensor for place in growing if (tensor := tensors[place]) is not None}
        self.increments = {place: torch.zeros_like(tensor) for place, tensor in places.items()}
        self._holds = list(values)
        self._given = list(values)
        self._increment: dict[int, int | None] = dict.fromkeys(places, 0)  # None while it is not known
        self._difference = dict.fromkeys(places, 0)

    def write(self, values: Sequence[Any]) -> None:
        """Let the device hold these values, numbers or tensors of no axes, when what is launched next begins."""
        for place, (tensor, value) in enumerate(zip(self.tensors, values, strict=True)):
            if tensor is None:
                continue
            held, self._holds[place] = self._holds[place], None  # not known, until all is launched
            if isinstance(value, torch.Tensor):  # maybe not computed yet: to compare it would be to wait
                tensor.copy_(value)
            elif held is None or value != held or (value == 0 and isinstance(value, float)):  # which may be -0.0
                tensor.fill_(value)
            if place in self.increments:
                self._learn(place, value - self._given[place])
            self._given[place] = value

    def launched(self) -> None:
        """Expect what the device holds when the step that was launched has ended."""
        for place, value in enumerate(self._given):
            increment = self._increment.get(place, 0)
            if increment is not None and not isinstance(value, torch.Tensor):
                self._holds[place] = value + increment

    def _learn(self, place: int, difference: int) -> None:
        """Expect a difference that comes the second time running."""
        if difference == self._difference[place] != self._increment[place]:
            self._increment[place] = None  # should an interrupt come before the next line but one
            self.increments[place].fill_(difference)
            self._increment[place] = difference
        self._difference[place] = difference
