"""Where a captured step leaves results of no axes: in a ring, so that none has to be copied before the next launch.

A loss is read now and then, or never. The step writes it into the next slot of a ring; an array that somebody still
holds when its slot is to be written again, `LENGTH` launches later, gets a copy then, together with all others.
"""

import weakref

import torch

from pytensor_convnet.cuda.arrays import DeviceArray

LENGTH = 256
"""How many launches' results a ring holds."""


class Ring:
    """The last results of one output.

    Parameters
    ----------
    dtype, device
        Of the results.

    Attributes
    ----------
    values : tensor, (LENGTH,)
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.values = torch.zeros(LENGTH, dtype=dtype, device=device)
        self._lent: list[weakref.ref[DeviceArray] | None] = [None] * LENGTH

    def make_room(self, launch: int) -> None:
        """Before a launch of this number: if the ring is full, let arrays that still show a slot have copies."""
        if launch % LENGTH or not launch:
            return
        lent = [
            (slot, array) for slot, ref in enumerate(self._lent) if ref is not None and (array := ref()) is not None
        ]
        if lent:
            values = self.values.clone()
            for slot, array in lent:
                array.move(values[slot])
        self._lent = [None] * LENGTH  # not before: after an error the next call does all this again

    def value(self, launch: int) -> torch.Tensor:
        """The slot that a launch writes."""
        return self.values[launch % LENGTH]

    def lend(self, launch: int, array: DeviceArray) -> None:
        """Remember an array that shows the slot of a launch."""
        array.lend()
        self._lent[launch % LENGTH] = weakref.ref(array)


def launch_number(device: torch.device) -> torch.Tensor:
    """The number of the launch, 0, in each of `LENGTH` elements: so the kernel that writes slots may go on counting."""
    return torch.zeros(LENGTH, dtype=torch.int64, device=device)


def write_slot(values: torch.Tensor, launch: torch.Tensor, result: torch.Tensor) -> None:
    """Write a result into a ring's values: as an elementwise operation, which becomes part of the updates' kernel."""
    slots = torch.arange(LENGTH, device=values.device)
    values.copy_(torch.where(slots == launch % LENGTH, result, values))
