"""One compiled function at run time: which tensors it reads, which captured graph it launches, what it returns.

A call with shapes that were not seen before runs the program step by step; it tunes and compiles our kernels, and
writes new values of shared variables only when all of them are computed. The second such call captures the
program; from then on a call is one launch. So whatever goes wrong (memory, an interrupt), shared variables have the
values that the last finished call gave them.
"""

import warnings
from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Variable

from pytensor_convnet.cuda.ahead import foreseen
from pytensor_convnet.cuda.arrays import DeviceArray, recorded
from pytensor_convnet.cuda.capture import Capture, exact_or_not
from pytensor_convnet.cuda.host_arithmetic import value_of
from pytensor_convnet.cuda.hosting import HostNumbers, Shapes
from pytensor_convnet.cuda.program import Program
from pytensor_convnet.cuda.residents import Resident, last_change, lock, resident_of
from pytensor_convnet.lowering.cuda.base import torch_dtype

MOST_CAPTURES = 16
"""How many combinations of shapes a function keeps captured; those not used for longest go first."""

MOST_UPLOADED = 1024
"""How many small arrays of the host are kept on the device."""


class Execution:
    """What PyTensor calls a VM: computes all outputs from the cells of the inputs.

    Parameters
    ----------
    program : Program
    cells : list of list
        Where PyTensor puts the inputs.
    residents : dict of int to Resident
        Of the inputs that are shared and on the device.
    compile, capture : bool
        Whether to compile and capture.
    """

    need_update_inputs = False
    allow_gc = True
    holds_residents = True

    def __init__(
        self, program: Program, cells: list[list[Any]], residents: dict[int, Resident], compile: bool, capture: bool
    ) -> None:
        self.program, self.cells, self.residents = program, cells, residents
        self.compile = compile
        self.device = program.target.device
        self.capture = capture
        if capture and program.host_reads:
            self.capture = False
            warnings.warn(
                "this function cannot be captured in a CUDA graph, and is slower without: it reads on the host "
                + "; ".join(program.host_reads),
                stacklevel=2,
            )
        self.storage_map: dict[Any, list[Any]] = {}  # asked for when a function is copied; nothing is shared by it
        self.captures: OrderedDict[Any, Capture] = OrderedDict()
        self._seen: OrderedDict[Any, int] = OrderedDict()
        self._evictions = 0
        explicit = [place for place in program.on_device if place not in residents]
        self._numbers = [place for place in explicit if program.fgraph.inputs[place].type.ndim == 0]
        self._arrays = {place for place in explicit if place not in self._numbers}
        self._known: dict[tuple[int, ...], Capture] = {}
        self._last_change = -1
        self._shapes_now: Shapes = ()
        self._updated = {place: residents[place] for place in program.updates.values() if place in residents}
        self._host_updates = {output: place for output, place in program.updates.items() if place in program.on_host}

    def __call__(self) -> list[Any]:
        # Kernels are launched, and events recorded, on the present device, which may be another than the function's.
        with lock, torch.no_grad(), torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            try:
                return self._run()
            except torch.cuda.OutOfMemoryError as error:
                raise MemoryError(
                    f"the GPU has not enough memory for this function: {str(error).splitlines()[0]} Shared variables "
                    "are as they were before the call. Smaller minibatches need less."
                ) from error

    def _run(self) -> list[Any]:
        integers = tuple(self._integer(place) for place in self.program.on_host)
        numbers = tuple(self._number(place) for place in self._numbers)
        if not self._arrays and self._last_change == last_change():
            host = self.program.host(integers, self._shapes_now)
            known = self._known.get(host.key)
            if known is not None:
                on_host = self._on_host(integers)
                return self._as_returned(self._launch(known, {}, numbers, host), on_host, known)
        tensors = self._tensors()
        self._shapes_now = shapes = self._shapes(tensors)
        host = self.program.host(integers, shapes)
        # Before anything is launched: an error must leave shared variables as they were.
        on_host = self._on_host(integers)
        key = self._key(tensors, host)
        capture: Capture | None = self.captures.get(key)
        if capture is None and self.capture and self._seen.get(key, 0) > self._evictions:
            capture = self._captured(key, tensors, host, self.program.host.values(integers, shapes))
        if capture is None:
            known_values = self.program.host.values(integers, shapes)
            return self._as_returned(self._step_by_step(key, tensors, host, known_values), on_host)
        self.captures.move_to_end(key)
        outputs = self._launch(capture, tensors, numbers, host)
        if self._last_change != last_change():
            self._known.clear()
            self._last_change = last_change()
        # Until something changes, the same is launched for the same key without looking at all variables again.
        self._known[host.key] = capture
        return self._as_returned(outputs, on_host, capture)

    def _tensors(self) -> dict[int, torch.Tensor]:
        """The values of all inputs on the device, by place."""
        return {
            place: self.residents[place].tensor() if place in self.residents else self._argument(place)
            for place in self.program.on_device
        }

    def _integer(self, place: int) -> int:
        cell = self.cells[place]
        resident = resident_of(cell)
        return int(cell[0] if resident is None else resident.host())

    def _number(self, place: int) -> Any:
        value = self.cells[place][0]
        return value if isinstance(value, torch.Tensor) else value.item()

    def _argument(self, place: int) -> torch.Tensor:
        value = self.cells[place][0]
        if isinstance(value, torch.Tensor):
            return value.to(self.device, torch_dtype(self.program.fgraph.inputs[place]), non_blocking=True)
        # A copy: the caller may change the array while the device still waits to read it.
        return torch.tensor(np.ascontiguousarray(value) if np.ndim(value) else value, device=self.device)

    def _shapes(self, tensors: dict[int, torch.Tensor]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(tensors[place].shape) if place in tensors else () for place in range(len(self.cells)))

    def _key(self, tensors: dict[int, torch.Tensor], host: HostNumbers) -> Any:
        """What a captured graph holds as it is: numbers, which shared tensors, the shapes of arguments."""
        held = tuple(
            id(tensor) if place in self.residents else tuple(tensor.shape) for place, tensor in tensors.items()
        )
        return host.key, held

    def _remember(self, key: Any) -> None:
        """Count how often a key came without being captured.

        The more captures had to go, the more often a key must come: captures that chase each other would cost far more
        than they save.
        """
        self._seen[key] = self._seen.get(key, 0) + 1
        self._seen.move_to_end(key)
        while len(self._seen) > 8 * MOST_CAPTURES:
            self._seen.popitem(last=False)

    def _captured(
        self, key: Any, tensors: dict[int, torch.Tensor], host: HostNumbers, known: dict[Variable, Any]
    ) -> Capture:
        held = {place: tensor if place in self.residents else tensor.clone() for place, tensor in tensors.items()}
        order = list(held)
        numbers = {order.index(place): self._number(place) for place in self._numbers}
        capture = Capture(self.program, list(held.values()), host, known, numbers, self.compile)
        self.captures[key] = capture
        del self._seen[key]
        while len(self.captures) > MOST_CAPTURES:
            self.captures.popitem(last=False)
            self._evictions += 1
            self._known.clear()
        return capture

    def _launch(
        self, capture: Capture, tensors: dict[int, torch.Tensor], numbers: tuple[Any, ...], host: HostNumbers
    ) -> list[Any]:
        for place, held in zip(self.program.on_device, capture.inputs):
            if place in self._arrays:
                held.copy_(tensors[place], non_blocking=True)
        for resident in self._updated.values():
            if resident.host_current:
                resident.written_on_device()
        capture.launch((*numbers, *host.feeds))
        return capture.results()

    def _step_by_step(
        self, key: Any, tensors: dict[int, torch.Tensor], host: HostNumbers, known: dict[Variable, Any]
    ) -> list[Any]:
        program = self.program
        if len(program.target.uploaded) > MOST_UPLOADED:
            program.target.uploaded.clear()
        inputs = list(tensors.values())
        with exact_or_not(program.target.precision), foreseen(program, inputs, host, known):
            outputs = program.run(inputs, program.feed_tensors(host), host, known)
        held = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        for place, tensor in enumerate(outputs):
            if tensor is not None and (tensor.untyped_storage().data_ptr() in held or _is_stretched(tensor)):
                outputs[place] = tensor.clone(memory_format=torch.contiguous_format)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what failed shows before anything is written
        if self._write(tensors, outputs):
            self._remember(key)
        return outputs

    def _write(self, tensors: dict[int, torch.Tensor], outputs: list[Any]) -> bool:
        """New values into shared variables: into the tensors that they have, where they fit.

        Whether all did: a captured graph could not write others.
        """
        same: list[tuple[int, torch.Tensor]] = []
        new: list[tuple[int, torch.Tensor]] = []
        for output, place in self.program.updates.items():
            if place in self._updated:
                fits = tensors[place].shape == outputs[output].shape
                (same if fits else new).append((place, outputs[output]))
        for place, _ in same:
            self._updated[place].written_on_device()
        if same:
            torch._foreach_copy_([tensors[place] for place, _ in same], [value for _, value in same])
        for place, value in new:
            # A copy: the same tensor may be another's new value, a constant, or what a result is a view of.
            self._updated[place].written_on_device(value.clone(memory_format=torch.contiguous_format))
        return not new

    def _on_host(self, integers: tuple[int, ...]) -> dict[int, np.ndarray]:
        """The outputs that are known on the host, by place."""
        program, graph = self.program, self.program.fgraph
        if not program.host_outputs:
            return {}
        known = program.host.values(integers, self._shapes_now)
        return {place: np.array(value_of(graph.outputs[place], known)) for place in program.host_outputs}

    def _as_returned(
        self, outputs: list[Any], values: dict[int, np.ndarray], capture: Capture | None = None
    ) -> list[Any]:
        """Outputs as arrays that wait when they are read; shared integers on the host get their new values."""
        program = self.program
        computed = None
        if any(outputs[place] is not None and place not in program.updates for place in range(len(outputs))):
            computed = recorded(self.device)
        returned: list[Any] = []
        for place, tensor in enumerate(outputs):
            if place in values:
                returned.append(values[place])
            elif place in program.updates or tensor is None:
                returned.append(None)
            else:
                returned.append(DeviceArray(tensor, computed))
        if capture is not None:
            capture.lend(returned)
        for output, place in self._host_updates.items():
            cell = self.cells[place]
            cell[0] = values[output]
            resident = resident_of(cell)
            if resident is not None:
                resident.written_on_host()
        return returned


def _is_stretched(tensor: torch.Tensor) -> bool:
    """Whether elements share memory, as those of a number that was broadcast."""
    return any(stride == 0 and length > 1 for stride, length in zip(tensor.stride(), tensor.shape))
