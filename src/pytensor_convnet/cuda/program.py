"""A function graph as a program over torch tensors.

A `Program` computes all outputs of a graph from tensors, once for each call of `run`: eagerly, while a compiler traces
it, or while a CUDA graph is captured. It changes nothing: new values of shared variables are outputs like all others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.tensor.basic import ScalarFromTensor, TensorFromScalar
from pytensor.tensor.subtensor import IncSubtensor, Subtensor

from pytensor_convnet.cuda.host_arithmetic import evaluate, is_host_integer, value_of
from pytensor_convnet.cuda.hosting import (
    HostNumbers,
    HostProgram,
    Kind,
    WindowSpec,
    is_small,
    kinds_of,
    windows_of,
)
from pytensor_convnet.lowering.cuda import Lowering, Target, lower
from pytensor_convnet.lowering.cuda.base import torch_dtype
from pytensor_convnet.lowering.cuda.indexing import Window


@dataclass(frozen=True)
class _Step:
    """One node, or several that are computed together: how, and which variables nobody reads after them."""

    nodes: tuple[Apply, ...]
    lowerings: tuple[Lowering | None, ...]
    done: tuple[Variable, ...]


class Program:
    """The program of a graph.

    Parameters
    ----------
    fgraph : FunctionGraph
    updates : dict of int to int
        Which output is the new value of which input.
    target : Target

    Attributes
    ----------
    on_host : list of int
        The inputs that are integers on the host; all others are on the device.
    host : HostProgram
    host_outputs : set of int
        The outputs that are known on the host at each call.
    host_reads : list of str
        What the program reads on the host of data on the device; if anything, it cannot be captured.

    Raises
    ------
    UnsupportedOp
    """

    def __init__(self, fgraph: FunctionGraph, updates: dict[int, int], target: Target) -> None:
        self.fgraph, self.updates, self.target = fgraph, updates, target
        kinds, host_inputs = _settled_kinds(fgraph, updates)
        self.kinds = kinds
        self.on_host = [place for place, x in enumerate(fgraph.inputs) if x in host_inputs]
        self.on_device = [place for place, x in enumerate(fgraph.inputs) if x not in host_inputs]
        self._windows = windows_of(fgraph, kinds)
        self._window_of = {(window.node, window.axis): place for place, window in enumerate(self._windows)}
        self._steps = self._lowered()
        self.host_reads = self._reads()
        updated = {output for output, place in updates.items() if place in self.on_device}
        self.host_outputs = {
            place
            for place, output in enumerate(fgraph.outputs)
            if self._kind(output) <= Kind.CALL and place not in updated
        }
        self._fed, demanded = self._numbers_of_calls(updated)
        self.host = HostProgram(fgraph, kinds, self._windows, demanded, self._fed)
        self._constants = {
            x: torch.tensor(x.data, device=target.device)
            for node, _ in self._computed()
            for x in node.inputs
            if isinstance(x, Constant) and not self._is_number(x)
        }

    def _kind(self, variable: Variable) -> Kind:
        return Kind.CONSTANT if isinstance(variable, Constant) else self.kinds[variable]

    def _lowered(self) -> list[_Step]:
        """The nodes that run on the device, and those that need what these make, with their functions."""
        nodes = [node for node in self.fgraph.toposort() if self.kinds[node.outputs[0]] >= Kind.LATE]
        lowerings = {
            node: None if self.kinds[node.outputs[0]] == Kind.LATE else lower(node.op, node, self.target)
            for node in nodes
        }
        groups = _in_groups(nodes, {node for node, found in lowerings.items() if found is not None and found.deferred})
        last = {x: group for group in groups for node in group for x in node.inputs}
        kept = set(self.fgraph.outputs)
        steps = []
        for group in groups:
            read = dict.fromkeys(x for node in group for x in node.inputs)
            done = tuple(x for x in read if last[x] is group and x not in kept)
            steps.append(_Step(group, tuple(lowerings[node] for node in group), done))
        return steps

    def _window_places(self, node: Apply) -> dict[int, WindowSpec]:
        """Which inputs of a node belong to windows."""
        places = {}
        for window in self._windows:
            if window.node is not node:
                continue
            parts = window.bounds if isinstance(window.bounds, tuple) else (window.bounds,)
            first = 1 if isinstance(node.op, Subtensor) else 2
            entry = node.op.idx_list[window.axis]
            numbers = (entry.start, entry.stop, entry.step) if isinstance(entry, slice) else (entry,)
            places.update({first + n: window for n, part in zip(numbers, parts) if n is not None and part is not None})
        return places

    def _reads(self) -> list[str]:
        found = []
        for node, lowering in self._computed():
            if lowering is None:
                continue
            if lowering.reads_device:
                found.append(f"{lowering.reads_device} ({node})")
            for place in lowering.host:
                x = node.inputs[place]
                if self._kind(x) == Kind.DEVICE:
                    found.append(f"{_origin(x)}, on which a shape or a position depends ({node})")
        return found

    def _is_on_host(self, lowering: Lowering, place: int, x: Variable) -> bool:
        return place in lowering.host or (place in lowering.rather_host and self._kind(x) <= Kind.LATE)

    def _computed(self) -> Iterator[tuple[Apply, Lowering | None]]:
        for step in self._steps:
            yield from zip(step.nodes, step.lowerings)

    def _numbers_of_calls(self, updated: set[int]) -> tuple[list[Variable], list[Variable]]:
        """Variables of kind CALL that are fed as data, and those that captured graphs hold as they are."""
        fed: dict[Variable, None] = {}
        demanded: dict[Variable, None] = {}
        for node, lowering in self._computed():
            windowed = self._window_places(node)
            for place, x in enumerate(node.inputs):
                if self._kind(x) != Kind.CALL or place in windowed:
                    continue
                read_on_host = lowering is None or self._is_on_host(lowering, place, x)
                (demanded if read_on_host or x.type.ndim else fed)[x] = None
        for place in updated:
            output = self.fgraph.outputs[place]
            if self._kind(output) == Kind.CALL:
                (demanded if output.type.ndim else fed)[output] = None
        return list(fed), list(demanded)

    def feed_tensors(self, host: HostNumbers) -> list[torch.Tensor]:
        """The numbers that are fed, as tensors on the device."""
        dtypes = [torch_dtype(x) for x in self._fed] + [torch.int64] * len(self._windows)
        return [
            torch.full((), value, dtype=dtype, device=self.target.device)
            for value, dtype in zip(host.feeds, dtypes, strict=True)
        ]

    def same_feeds(self, shapes: Sequence[tuple[int, ...]]) -> list[int]:
        """For each number that is fed, the first that is the same at each call.

        Minibatches of images and of labels are windows with the same bounds; if both have as many, they begin alike.

        Parameters
        ----------
        shapes : sequence of tuple of int
            Of the inputs that are `on_device`.
        """
        shape_of = dict(zip(self.on_device, shapes))
        first: dict[Any, int] = {}
        fed = [(variable,) for variable in self._fed]
        windows = [(window.bounds, shape_of[window.source][window.axis]) for window in self._windows]
        return [first.setdefault(key, place) for place, key in enumerate([*fed, *windows])]

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        feeds: Sequence[torch.Tensor],
        host: HostNumbers,
        known: dict[Variable, Any],
    ) -> list[torch.Tensor | None]:
        """Compute all outputs.

        Parameters
        ----------
        inputs : sequence of tensor
            The values of the inputs that are `on_device`.
        feeds : sequence of tensor, ()
            As `feed_tensors` has them.
        host : HostNumbers
        known : dict of Variable to NumPy array
            As `HostProgram.values` gives them.

        Returns
        -------
        list
            A tensor for each output; None for `host_outputs`.
        """
        values: dict[Variable, Any] = dict(known)
        values.update((self.fgraph.inputs[place], tensor) for place, tensor in zip(self.on_device, inputs))
        fed = dict(zip(self._fed, feeds))
        starts = feeds[len(self._fed) :]
        windows = [Window(start, *lengths) for start, lengths in zip(starts, host.windows)]
        for step in self._steps:
            calls = [
                (node, lowering, self._arguments(node, lowering, values, fed, windows))
                for node, lowering in zip(step.nodes, step.lowerings)
                if lowering is not None
            ]
            if not calls:
                self._late(step.nodes[0], values)
            elif len(calls) == 1:
                [(node, lowering, arguments)] = calls
                with _named(node, arguments):
                    results = lowering.function(*arguments)
                values.update(zip(node.outputs, results if isinstance(results, list | tuple) else [results]))
            else:
                values.update(_together(calls))
            for x in step.done:
                values.pop(x, None)
        return [
            None if place in self.host_outputs else self._as_output(x, values, fed)
            for place, x in enumerate(self.fgraph.outputs)
        ]

    def _late(self, node: Apply, values: dict[Variable, Any]) -> None:
        [first, *_] = node.inputs or [None]
        if isinstance(values.get(first), torch.Tensor):
            result = lower(node.op, node, self.target).function(values[first])
            values[node.outputs[0]] = np.asarray(result)
        else:
            evaluate(node, values)

    def _arguments(
        self,
        node: Apply,
        lowering: Lowering,
        values: dict[Variable, Any],
        fed: dict[Variable, torch.Tensor],
        windows: list[Window],
    ) -> list[Any]:
        """The values of a node's inputs, each where its function wants it."""
        arguments: list[Any] = []
        for place, x in enumerate(node.inputs):
            on_host = self._is_on_host(lowering, place, x)
            if x in fed and not on_host:
                arguments.append(fed[x])
            elif isinstance(x, Constant):
                arguments.append(x.data if on_host else self._constant(x))
            else:
                value = values[x]
                if on_host and isinstance(value, torch.Tensor):
                    value = np.asarray(value.cpu().numpy())
                arguments.append(value)
        if isinstance(node.op, Subtensor | IncSubtensor):
            self._put_windows(node, arguments, windows)
        return arguments

    def _put_windows(self, node: Apply, arguments: list[Any], windows: list[Window]) -> None:
        """Windows in the place of the bounds that they come of."""
        for place, spec in self._window_places(node).items():
            window = windows[self._window_of[spec.node, spec.axis]]
            arguments[place] = window if isinstance(spec.bounds, tuple) else window.start

    def _constant(self, constant: Constant) -> Any:
        """A constant where it is best: numbers and shapes on the host, data on the device, uploaded once."""
        return constant.data if self._is_number(constant) else self._constants[constant]

    @staticmethod
    def _is_number(constant: Constant) -> bool:
        return is_small(constant) or np.size(constant.data) == 1 or not isinstance(constant.data, np.ndarray)

    def _as_output(self, variable: Variable, values: dict[Variable, Any], fed: dict[Variable, Any]) -> torch.Tensor:
        value = fed[variable] if variable in fed else value_of(variable, values)
        tensor = self.target.tensor(value)
        return tensor.to(torch_dtype(variable)) if hasattr(variable.type, "dtype") else tensor


def _in_groups(nodes: Sequence[Apply], deferred: set[Apply]) -> list[tuple[Apply, ...]]:
    """Nodes in an order in which they can be computed, deferred ones together with those that read the same.

    The two gradients of a convolution, for its images and for its filters, read that of its maps, and need nothing of
    each other.
    """
    groups: list[tuple[Apply, ...]] = []
    waiting = set(nodes)

    def goes_with(node: Apply, other: Apply) -> bool:
        ready = not any(x.owner in waiting for x in other.inputs)
        return ready and any(x in node.inputs for x in other.inputs if not isinstance(x, Constant))

    candidates = [node for node in nodes if node in deferred]
    for node in nodes:
        if node not in waiting:
            continue
        others = candidates if node in deferred else ()
        group = node, *(other for other in others if other in waiting and other is not node and goes_with(node, other))
        waiting.difference_update(group)
        groups.append(group)
    return groups


def _together(calls: Sequence[tuple[Apply, Lowering, list[Any]]]) -> dict[Variable, Any]:
    """The results of nodes whose kernels run side by side."""
    from pytensor_convnet.lowering.cuda.operators import KernelCall, call_together

    results: dict[Variable, Any] = {}
    for node, lowering, arguments in calls:
        assert lowering.deferred is not None
        with _named(node, arguments):
            results[node.outputs[0]] = lowering.deferred(*arguments)
    waiting = {output: made for output, made in results.items() if isinstance(made, KernelCall)}
    return results | dict(zip(waiting, call_together([*waiting.values()])))


@contextmanager
def _named(node: Apply, arguments: Sequence[Any]) -> Iterator[None]:
    """Errors bear the node in which they arose."""
    try:
        yield
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) if hasattr(x, "shape") else str(x) for x in arguments)
        error.add_note(f"Apply node that caused the error: {node}\nShapes of its inputs: {shapes}")
        raise


def _origin(variable: Variable) -> Variable:
    """What a number is converted from."""
    while variable.owner is not None and isinstance(variable.owner.op, ScalarFromTensor | TensorFromScalar):
        variable = variable.owner.inputs[0]
    return variable


def _settled_kinds(fgraph: FunctionGraph, updates: dict[int, int]) -> tuple[dict[Variable, Kind], set[Variable]]:
    """The kinds of all variables, and the inputs on the host.

    A shared integer stays on the host as long as its new value is computed there, too.
    """
    on_host = {x for x in fgraph.inputs if is_host_integer(x)}
    while True:
        kinds = kinds_of(fgraph, on_host)
        moved = {
            fgraph.inputs[place]
            for output, place in updates.items()
            if fgraph.inputs[place] in on_host and kinds.get(fgraph.outputs[output], Kind.CONSTANT) > Kind.CALL
        }
        if not moved:
            return kinds, on_host
        on_host -= moved
