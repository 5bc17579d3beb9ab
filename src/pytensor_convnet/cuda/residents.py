"""Shared variables on the device, and how they stay one value for functions of all modes.

A shared variable moves to the device when a function of mode CUDA first reads it, and stays. From then on its value is
in one of two places, or in both: the *host copy* is what PyTensor's storage cell holds, the *device copy* a torch
tensor. Who writes one makes the other stale, and a stale copy is brought up to date when somebody reads it:

- ``set_value`` and ``get_value(borrow=True)`` go through the variable's container, which becomes a `DeviceContainer`:
  what is borrowed may be written to, and the device reads it again. ``get_value()`` gives a copy (`give_copies`);
- a function of another mode reads the cell itself. So the first function of mode CUDA makes PyTensor's functions look,
  before they run, whether one of their cells is stale (`watch_other_modes`), and mark after it what they updated;
- while the host copy is stale the cell holds None, so that code which reads a cell in some other way fails and does not
  compute with old values.
"""

import copy
import copyreg
import functools
import hashlib
import itertools
import threading
from contextlib import nullcontext
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from pytensor.compile import executor
from pytensor.compile.executor import Function
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.link.basic import Container
from pytensor.tensor.random.type import RandomGeneratorType

from pytensor_convnet.cuda.arrays import DeviceArray, DeviceError, recorded, to_host

_residents: "WeakValueDictionary[int, Resident]" = WeakValueDictionary()
"""By the identity of the cell, which a resident keeps alive; the variable's container keeps the resident."""

lock = threading.RLock()
"""Held while a call of mode CUDA runs, and while a value is read or set: no thread sees half of what another does."""

_changes = itertools.count()
_last_change = next(_changes)


def last_change() -> int:
    """A number that is another one after any resident got another tensor, or a copy of one became current or stale.

    But for what is written on the device: as long as it is the same, a function may launch what it launched before.
    """
    return _last_change


def _changed() -> None:
    global _last_change
    _last_change = next(_changes)


SPARE_BYTES = 64 << 20
"""How much memory a variable's former shapes may keep, so that functions captured for them can be used again."""


MOST_PINNED = 16 << 20
"""Bytes of a value that goes to the GPU by way of memory that the GPU reads while the host goes on."""


class Resident:
    """The device copy of a shared variable.

    Parameters
    ----------
    variable : Variable
        For its type and name.
    cell : list
        PyTensor's storage of the value.
    device : torch.device

    Attributes
    ----------
    device_current, host_current : bool
        Which copies are up to date; at least one is.
    """

    def __init__(self, variable: Variable, cell: list[Any], device: torch.device) -> None:
        self.type, self.name = variable.type, variable.name
        self.cell, self.device = cell, device
        self.is_random = isinstance(variable.type, RandomGeneratorType)
        self.device_current, self.host_current = False, True
        self._tensor: torch.Tensor | None = None
        self._spares: dict[tuple[int, ...], torch.Tensor] = {}
        self._uploaded: Any = None
        self._last_read: Any = cell[0]

    def tensor(self) -> torch.Tensor:
        """The value on the device; the same tensor as before where its shape is."""
        if self.host_current and (not self.device_current or self.cell[0] is not self._uploaded):
            self._upload()
        assert self._tensor is not None
        return self._tensor

    def host(self) -> Any:
        """The value on the host: a NumPy array, or a generator."""
        with lock:
            return self._brought_to_host()

    def soon(self) -> Any:
        """A copy of the value: where the device is still to compute it, an array that waits when it is read."""
        with lock:
            if self.host_current or self.is_random:
                return copy.deepcopy(self._brought_to_host())
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                return DeviceArray(self.tensor().clone(), recorded(self.device))

    def lent(self) -> Any:
        """The value on the host, in hands that may write to it: the device reads it again."""
        with lock:
            self.host()
            self.written_on_host()
            return self.cell[0]

    def _brought_to_host(self) -> Any:
        if not self.host_current:
            try:
                self.cell[0] = from_device(self.tensor(), self.is_random)
            except DeviceError:
                self.cell[0] = self._last_read
                self.host_current, self.device_current = True, False
                raise
            self.host_current = True
            self._uploaded = self._last_read = self.cell[0]
            _changed()
        return self.cell[0]

    def written_on_device(self, tensor: torch.Tensor | None = None) -> None:
        """The device copy has changed, or is another tensor now."""
        if tensor is not None and tensor is not self._tensor:
            self._replace(tensor)
        self.device_current, self.host_current = True, False
        self.cell[0] = None

    def written_on_host(self) -> None:
        """The host copy has changed."""
        self.device_current, self.host_current = False, True
        _changed()

    def _upload(self) -> None:
        value = self.cell[0]
        if value is None:
            raise ValueError(f"shared variable {self.name} has no value")
        source = to_tensor(value, self.is_random)
        same = self._tensor is not None and self._tensor.shape == source.shape and self._tensor.dtype == source.dtype
        if not same:
            spare = self._spares.pop(tuple(source.shape), None)
            self._replace(torch.empty(source.shape, dtype=source.dtype, device=self.device) if spare is None else spare)
        assert self._tensor is not None
        if self.device.type == "cuda" and source.nbytes <= MOST_PINNED:
            # Else the host would wait for all that the device has been given to do.
            self._tensor.copy_(source.pin_memory(), non_blocking=True)
        else:
            self._tensor.copy_(source)
        self.device_current, self._uploaded = True, value
        self._last_read = value
        _changed()

    def _replace(self, tensor: torch.Tensor) -> None:
        """Take another tensor; the former is kept for when its shape comes back, if it is small."""
        former = self._tensor
        if former is not None and former.shape != tensor.shape:
            self._spares[tuple(former.shape)] = former
            while sum(spare.numel() * spare.element_size() for spare in self._spares.values()) > SPARE_BYTES:
                del self._spares[next(iter(self._spares))]
        self._tensor = tensor
        _changed()


def to_tensor(value: Any, is_random: bool = False) -> torch.Tensor:
    """A host value as a tensor on the host; of a generator its state."""
    if is_random:
        return torch.tensor(_state_of(value), dtype=torch.int64)
    array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def from_device(tensor: torch.Tensor, is_random: bool = False) -> Any:
    """The inverse of `to_tensor`, once the device has computed the value."""
    if not is_random:
        return np.array(to_host(tensor))
    key, count = (int(number) & (2**64 - 1) for number in to_host(tensor))
    return np.random.Generator(np.random.Philox(key=key, counter=count))


def _state_of(generator: np.random.Generator) -> list[int]:
    """The key and the count of draws that stand for a generator of NumPy.

    Those that came from the device are Philox generators that hold both; of any other the key is a digest of its state.
    """
    state = generator.bit_generator.state
    if state["bit_generator"] == "Philox" and not state["state"]["key"][1]:
        key, count = int(state["state"]["key"][0]), int(state["state"]["counter"][0])
    else:
        digest = hashlib.sha256(repr(sorted(_plain(state).items())).encode()).digest()
        key, count = int.from_bytes(digest[:8], "little"), 0
    return [number - 2**64 if number >= 2**63 else number for number in (key, count)]


def _plain(state: Any) -> dict[str, Any]:
    """A generator's state without arrays, whose printed form is its own."""
    return {
        name: _plain(value) if isinstance(value, dict) else np.asarray(value).tolist() for name, value in state.items()
    }


class DeviceContainer(Container):
    """The container of a shared variable that has a device copy, its ``resident``."""

    resident: Resident

    def _read(self) -> Any:
        return self.resident.lent()

    def _write(self, value: Any) -> None:
        with lock:
            Container.value.fset(self, value)
            self.resident.written_on_host()

    value = property(_read, _write)
    data = property(_read, _write)

    def __deepcopy__(self, memo: dict[int, Any]) -> Container:
        plain = Container.__new__(Container)
        vars(plain).update(self.__reduce__()[2])
        return copy.deepcopy(plain, memo)

    def __reduce__(self) -> Any:
        # A plain container, of the same cell: functions and variables that share it still do when they are read back.
        self.resident.host()
        return _plain_container, (), {name: value for name, value in vars(self).items() if name != "resident"}


def _plain_container() -> Container:
    return Container.__new__(Container)


def contain(resident: Resident) -> DeviceContainer:
    """Another container for the same shared variable, as each function has one."""
    container = DeviceContainer(resident.type, resident.cell, name=resident.name)
    container.resident = resident
    return container


def move(variable: Variable, container: Container, device: torch.device) -> Resident:
    """Let a shared variable live on ``device``: its resident, made at the first call."""
    cell = container.storage
    resident = _residents.get(id(cell))
    if resident is None:
        resident = _residents[id(cell)] = Resident(variable, cell, device)
    elif resident.device != device:
        raise ValueError(
            f"shared variable {variable.name} lives on {resident.device}; a function on {device} cannot use it, too"
        )
    if type(container) is Container:
        container.__class__ = DeviceContainer
        container.resident = resident
    return resident


def resident_of(cell: list[Any]) -> Resident | None:
    """The resident of a storage cell, if it has one."""
    return _residents.get(id(cell))


@functools.cache
def watch_other_modes() -> None:
    """Make functions of other modes read host copies that are up to date, and say what they wrote."""
    call = Function.__call__

    @functools.wraps(call)
    def call_with_current_values(self: Function, *args: Any, **kwargs: Any) -> Any:
        if getattr(self.vm, "holds_residents", False):  # of mode CUDA, which looks after itself
            return call(self, *args, **kwargs)
        used = _brought_to_host(self)
        try:
            return call(self, *args, **kwargs)
        finally:
            for resident, spec in used:
                if spec.update is not None or spec.mutable:
                    resident.written_on_host()

    def reduce_with_current_values(function: Function) -> Any:
        _brought_to_host(function)
        return executor._pickle_Function(function)

    Function.__call__ = call_with_current_values
    copyreg.pickle(Function, reduce_with_current_values)


@functools.cache
def give_copies() -> None:
    """Let ``get_value()`` give a copy without lending what is copied, which would be brought to the device again."""
    get_value = SharedVariable.get_value

    @functools.wraps(get_value)
    def get_copy_or_value(variable: Any, borrow: bool = False, return_internal_type: bool = False) -> Any:
        resident = getattr(variable.container, "resident", None)
        if borrow or resident is None:
            return get_value(variable, borrow, return_internal_type)
        return copy.deepcopy(resident.host())

    SharedVariable.get_value = get_copy_or_value


def _brought_to_host(function: Function) -> list[tuple[Resident, Any]]:
    """The residents that a function reads, with current host copies, and how it uses each."""
    used = [
        (resident, spec)
        for cell, spec in zip(function._input_storage_data, function.maker.expanded_inputs)
        if (resident := _residents.get(id(cell))) is not None
    ]
    for resident, _ in used:
        resident.host()
    return used
