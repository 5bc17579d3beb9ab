"""Reading and writing parts of tensors.

A slice whose start is known only at the call, as in ``data[i * B : (i + 1) * B]``, comes as a `Window`: its start lies
on the device, so that one captured graph serves every minibatch, and its length is a number. All other bounds
are numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply
from pytensor.tensor import subtensor as pytensor_subtensor
from pytensor.tensor.basic import Alloc, ARange
from pytensor.tensor.subtensor import (
    AdvancedIncSubtensor,
    AdvancedSubtensor,
    IncSubtensor,
    Subtensor,
    indices_from_subtensor,
)

from pytensor_convnet.lowering.cuda.base import Lowering, Target, UnsupportedOp, lower

Entry = Any
"""One index of a tensor: an integer, a slice of numbers, a `Window`, or a tensor of integers."""


@dataclass(frozen=True)
class Window:
    """A slice of ``length`` entries, ``step`` apart, from ``start`` on, a tensor of no axes."""

    start: torch.Tensor
    length: int
    step: int

    def positions(self) -> torch.Tensor:
        """The entries' positions along their axis."""
        return self.start + torch.arange(self.length, device=self.start.device) * self.step


def entries_of(op: Any, node: Apply, values: Sequence[Any], shape: Sequence[int]) -> list[Entry]:
    """The indices of a node whose inputs have these values; one for each axis of ``shape``.

    Slices become numbers, `Window` and tensors stay.
    """
    found = list(indices_from_subtensor(values, op.idx_list))
    axis_of = _first_axes(found)
    entries: list[Entry] = []
    for entry, axis in zip(found, axis_of):
        window = next((part for part in _parts(entry) if isinstance(part, Window)), None)
        if window is not None:
            entries.append(window)
        elif isinstance(entry, slice):
            start, stop, step = (None if part is None else int(part) for part in (entry.start, entry.stop, entry.step))
            entries.append(slice(start, stop, step))
        elif isinstance(entry, torch.Tensor):
            entries.append(entry)
        elif np.ndim(entry) == 0:
            entries.append(_checked_position(int(entry), shape[axis], axis, shape))
        else:
            entries.append(np.asarray(entry))
    return entries + [slice(None)] * (len(shape) - (axis_of[-1] + 1 if axis_of else 0))


def _parts(entry: Any) -> tuple[Any, ...]:
    """The bounds of a slice."""
    return (entry.start, entry.stop, entry.step) if isinstance(entry, slice) else ()


def _first_axes(entries: Sequence[Any]) -> list[int]:
    """The axis that each index is for; one of booleans may be for several."""
    axes, axis = [], 0
    for entry in entries:
        axes.append(axis)
        is_mask = getattr(entry, "dtype", None) in (torch.bool, np.dtype(bool))
        axis += entry.ndim if is_mask else 1
    return axes


def _checked_position(position: int, length: int, axis: int, shape: Sequence[int]) -> int:
    if not -length <= position < length:
        raise IndexError(f"index {position} is out of bounds for axis {axis} of a tensor of shape {tuple(shape)}")
    return position % length


def take(x: torch.Tensor, entries: Sequence[Entry], target: Target) -> torch.Tensor:
    """``x[entries]``, where indices of tensors go together as NumPy has it."""
    for axis, entry in zip(_first_axes(entries), entries):
        if isinstance(entry, Window):
            x = torch.index_select(x, axis, entry.positions())
        elif isinstance(entry, slice) and entry.step is not None and entry.step < 0:
            chosen = range(x.shape[axis])[entry]
            x = x.flip(axis)
            if chosen != range(x.shape[axis] - 1, -1, -1):
                last = x.shape[axis] - 1
                first = last - chosen.start if len(chosen) else 0
                end = last - chosen[-1] + 1 if len(chosen) else 0
                x = x[(slice(None),) * axis + (slice(first, end, -entry.step),)]
    plain = tuple(
        slice(None) if isinstance(entry, Window) or _is_reversed(entry) else _index(entry, target) for entry in entries
    )
    if any(isinstance(entry, torch.Tensor) and entry.ndim > 0 for entry in plain):
        return x[_with_positions_as_tensors(plain, target)]
    lonely = [axis for axis, entry in enumerate(plain) if isinstance(entry, torch.Tensor)]
    for axis in lonely:  # one position on the device: no host needs to know it
        position: Any = plain[axis]
        position = torch.where(position < 0, position + x.shape[axis], position)
        x = torch.index_select(x, axis, position.reshape(1))
    return x[tuple(0 if axis in lonely else entry for axis, entry in enumerate(plain))]


def _with_positions_as_tensors(plain: Sequence[Any], target: Target) -> tuple[Any, ...]:
    """Single positions beside tensors of positions as tensors of one entry, so that all go together as NumPy has it.

    torch takes a number's axis away before it looks at tensors, which puts their axes elsewhere where a slice lies
    between, and reads a number on the device on the host.
    """
    if not _are_apart(plain):
        return tuple(entry.reshape(1) if _is_lonely(entry) else entry for entry in plain)
    return tuple(
        torch.full((1,), entry, device=target.device)
        if isinstance(entry, int)
        else entry.reshape(1)
        if _is_lonely(entry)
        else entry
        for entry in plain
    )


def _is_lonely(entry: Any) -> bool:
    return isinstance(entry, torch.Tensor) and entry.ndim == 0


def _are_apart(entries: Sequence[Entry]) -> bool:
    """Whether there are slices between positions: NumPy then puts the axes that positions select first."""
    places = [place for place, entry in enumerate(entries) if not isinstance(entry, slice | Window)]
    return bool(places) and places[-1] - places[0] >= len(places)


def _is_reversed(entry: Entry) -> bool:
    return isinstance(entry, slice) and entry.step is not None and entry.step < 0


def _index(entry: Entry, target: Target) -> Any:
    if isinstance(entry, np.ndarray):
        entry = target.tensor(entry)
    if isinstance(entry, torch.Tensor) and entry.dtype not in (torch.bool, torch.int64):
        return entry.to(torch.int64)
    return entry


def put(x: torch.Tensor, y: Any, entries: Sequence[Entry], add: bool, target: Target) -> torch.Tensor:
    """``x`` with ``y`` written to, or added at, ``x[entries]``; positions that come twice add up."""
    x = x.clone(memory_format=torch.contiguous_format)
    y = target.tensor(y, x.dtype)
    if all(isinstance(entry, int | slice) and not _is_reversed(entry) for entry in entries):
        part = x[tuple(entries)]
        part.copy_(part + y if add else y.broadcast_to(part.shape))
        return x
    while isinstance(entries[-1], slice) and entries[-1] == slice(None):
        entries = entries[:-1]
    if not any(isinstance(entry, slice | Window) for entry in entries):
        return x.index_put_(tuple(target.tensor(_index(entry, target)) for entry in entries), y, accumulate=add)
    if _selects_along_each_axis(entries):
        return x.index_put_(_outer(x.shape, entries, target), y, accumulate=add)
    numbered = torch.arange(x.numel(), device=target.device).reshape(x.shape)
    elements = take(numbered, [*entries, *[slice(None)] * (x.ndim - _axes(entries))], target)
    x.view(-1).index_put_((elements,), y, accumulate=add)
    return x


def _axes(entries: Sequence[Entry]) -> int:
    """How many axes the indices are for."""
    last = entries[-1]
    return _first_axes(entries)[-1] + (last.ndim if getattr(last, "dtype", None) in (torch.bool, np.dtype(bool)) else 1)


def _selects_along_each_axis(entries: Sequence[Entry]) -> bool:
    """Whether what is selected is what each index selects along its axis, in the axes' order."""
    tensors = [entry for entry in entries if isinstance(entry, torch.Tensor | np.ndarray) and entry.ndim > 0]
    masks = any(entry.dtype in (torch.bool, np.dtype(bool)) for entry in tensors)
    return not tensors or (len(tensors) == 1 and tensors[0].ndim == 1 and not masks and not _are_apart(entries))


def _outer(shape: Sequence[int], entries: Sequence[Entry], target: Target) -> tuple[torch.Tensor, ...]:
    """Indices for all axes that, broadcast, select what each index selects along its own axis."""
    kept = [axis for axis, entry in enumerate(entries) if not isinstance(entry, int) and getattr(entry, "ndim", 1) > 0]
    indices = []
    for axis, entry in enumerate(entries):
        if isinstance(entry, Window):
            positions = entry.positions()
        elif isinstance(entry, slice):
            chosen = range(shape[axis])[entry]
            positions = torch.arange(len(chosen), device=target.device) * chosen.step + chosen.start
        else:
            positions = target.tensor(_index(entry, target))
        if axis in kept:
            positions = positions.reshape(-1, *[1] * (len(kept) - 1 - kept.index(axis)))
        indices.append(positions)
    return tuple(indices)


def _bounds(op: Any, first: int) -> frozenset[int]:
    """The inputs that bound slices."""
    slices = [entry for entry in op.idx_list if isinstance(entry, slice)]
    places = [place for entry in slices for place in (entry.start, entry.stop, entry.step)]
    return frozenset(first + place for place in places if place is not None)


@lower.register(Subtensor)
def _lower_subtensor(op: Any, node: Apply, target: Target) -> Lowering:
    def subtensor(x: Any, *values: Any) -> torch.Tensor:
        x = target.tensor(x)
        return take(x, entries_of(op, node, values, x.shape), target)

    return Lowering(subtensor, _bounds(op, 1))


@lower.register(IncSubtensor)
def _lower_inc_subtensor(op: Any, node: Apply, target: Target) -> Lowering:
    def inc_subtensor(x: Any, y: Any, *values: Any) -> torch.Tensor:
        x = target.tensor(x)
        return put(x, y, entries_of(op, node, values, x.shape), not op.set_instead_of_inc, target)

    return Lowering(inc_subtensor, _bounds(op, 2))


def _masks(node: Apply, first: int) -> str:
    """A mask's number of entries is the length of what it selects."""
    masked = any(getattr(x.type, "dtype", None) == "bool" for x in node.inputs[first:])
    return "how many entries a mask selects" if masked else ""


@lower.register(AdvancedSubtensor)
def _lower_advanced_subtensor(op: Any, node: Apply, target: Target) -> Lowering:
    def subtensor(x: Any, *values: Any) -> torch.Tensor:
        x = target.tensor(x)
        return take(x, entries_of(op, node, values, x.shape), target)

    return Lowering(subtensor, _bounds(op, 1), reads_device=_masks(node, 1))


@lower.register(AdvancedIncSubtensor)
def _lower_advanced_inc_subtensor(op: Any, node: Apply, target: Target) -> Lowering:
    if getattr(op, "ignore_duplicates", False) and not op.set_instead_of_inc:
        raise UnsupportedOp(node, "additions that ignore repeated positions are not known to torch")

    one_in_each_row = _puts_one_in_each_row(node)

    def inc_subtensor(x: Any, y: Any, *values: Any) -> torch.Tensor:
        x = target.tensor(x)
        if one_in_each_row and values[0].shape[0] == x.shape[0]:
            return _one_in_each_row(x, target.tensor(y, x.dtype), target.tensor(values[1]))
        return put(x, y, entries_of(op, node, values, x.shape), not op.set_instead_of_inc, target)

    return Lowering(inc_subtensor, _bounds(op, 2), reads_device=_masks(node, 2))


def _puts_one_in_each_row(node: Apply) -> bool:
    """Whether a node puts numbers into a matrix of zeros at ``[arange(rows), columns]``: what a softmax's loss does."""
    x, y, *indices = node.inputs
    if x.type.ndim != 2 or y.type.ndim > 1 or [index.type.ndim for index in indices] != [1, 1]:
        return False
    if any(isinstance(entry, slice) for entry in node.op.idx_list) or indices[1].type.dtype == "bool":
        return False
    zeros, rows = x.owner, indices[0].owner
    if zeros is None or rows is None or not isinstance(zeros.op, Alloc) or not isinstance(rows.op, ARange):
        return False
    start, _, step = rows.inputs
    values = [getattr(constant, "data", None) for constant in (zeros.inputs[0], start, step)]
    return all(value is not None and np.all(value == wanted) for value, wanted in zip(values, (0, 0, 1)))


def _one_in_each_row(zeros: torch.Tensor, y: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Elementwise, and so fused with what reads it, where a scatter would be a kernel of its own."""
    count = zeros.shape[1]
    columns = torch.where(columns < 0, columns + count, columns)[:, None]
    chosen = columns == torch.arange(count, device=zeros.device)
    return torch.where(chosen, y.broadcast_to(zeros.shape[:1])[:, None], torch.zeros_like(y.reshape(-1)[:1])[:, None])


# PyTensor before 3.3 has Ops of their own for one vector of positions.
for _name, _general in (("AdvancedSubtensor1", AdvancedSubtensor), ("AdvancedIncSubtensor1", AdvancedIncSubtensor)):
    _op_type = getattr(pytensor_subtensor, _name, None)
    if _op_type is not None:
        lower.register(_op_type, lower.dispatch(_general))
