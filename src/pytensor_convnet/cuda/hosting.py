"""What of a graph is known on the host, and what shapes, and so captured graphs, depend on.

A shape, a slice's bounds and the like must be numbers on the host while the rest of a function runs on the device.
They are computed there, from the shapes of the inputs and from arguments that are integers, before the device is asked
for anything. So every variable is of one kind:

- CONSTANT: the same at each call;
- SHAPE: follows from the shapes of inputs;
- CALL: depends on an integer argument, or on a shared integer that only such numbers update;
- LATE: follows from the shape of something on the device, known when that is computed;
- DEVICE: data.

`HostProgram` computes the first kinds at each call and tells two things of it: the *key*, all numbers that a captured
graph has in it as they are, and the *feeds*, those that it reads from the device at each launch. A minibatch's number
is fed, so that one captured graph serves all minibatches; the minibatch's length is in the key.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.scalar.basic import Composite, ScalarType
from pytensor.tensor.basic import Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Max, Min, Prod, Sum
from pytensor.tensor.shape import Reshape, Shape, Shape_i
from pytensor.tensor.subtensor import IncSubtensor, Subtensor, indices_from_subtensor
from pytensor.tensor.type import TensorType

Shapes = Sequence[tuple[int, ...]]

MOST_REMEMBERED = 4096
"""Results of so many calls are kept, so that a loop over minibatches computes each number once."""


class Kind(enum.IntEnum):
    """Where a variable's value is known; see the module."""

    CONSTANT = 0
    SHAPE = 1
    CALL = 2
    LATE = 3
    DEVICE = 4


_SMALL = (
    Elemwise, MakeVector, Join, ScalarFromTensor, TensorFromScalar, DimShuffle, Sum, Prod, Max, Min, Reshape, Subtensor,
)  # fmt: skip
"""Ops that are computed on the host where all their inputs are known there."""


def is_small(variable: Variable) -> bool:
    """Whether a variable is a number or a vector, as shapes are."""
    return isinstance(variable.type, ScalarType) or (isinstance(variable.type, TensorType) and variable.type.ndim <= 1)


def is_host_integer(variable: Variable) -> bool:
    """Whether a variable is one integer."""
    return (
        isinstance(variable.type, TensorType | ScalarType)
        and getattr(variable.type, "ndim", 0) == 0
        and variable.type.dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
    )


def kinds_of(fgraph: FunctionGraph, on_host: set[Variable]) -> dict[Variable, Kind]:
    """The kind of each variable; ``on_host`` are the inputs that are integers on the host."""
    kinds: dict[Variable, Kind] = {x: Kind.CALL if x in on_host else Kind.DEVICE for x in fgraph.inputs}

    def kind(variable: Variable) -> Kind:
        return Kind.CONSTANT if isinstance(variable, Constant) else kinds[variable]

    for node in fgraph.toposort():
        if isinstance(node.op, Shape | Shape_i):
            [x] = node.inputs
            found = Kind.LATE if kind(x) == Kind.DEVICE and x.owner is not None else Kind.SHAPE
        else:
            found = max((kind(x) for x in node.inputs), default=Kind.CONSTANT)
            computable = isinstance(node.op, _SMALL) and all(map(is_small, (*node.inputs, *node.outputs)))
            if not computable:
                found = Kind.DEVICE
        kinds.update((output, found) for output in node.outputs)
    return kinds


@dataclass(frozen=True)
class WindowSpec:
    """A slice, or one position, of an input that is fed: where it is in its node, and how its bounds are found.

    Attributes
    ----------
    node : Apply
    axis : int
        The axis that it is of, and its place among the node's indices.
    bounds : (Variable, Variable, Variable) or Variable
        Start, stop and step, each maybe None; or the position.
    source : int
        The input of the function that is indexed.
    """

    node: Apply
    axis: int
    bounds: Any
    source: int

    def resolve(self, values: dict[Variable, Any], length: int) -> tuple[int, int, int]:
        """Start, length and step within an axis of ``length``."""
        if not isinstance(self.bounds, tuple):
            position = int(value_of(self.bounds, values))
            if not -length <= position < length:
                source = self.node.inputs[0]
                raise IndexError(f"index {position} is out of bounds for axis {self.axis} of {source}, of {length}")
            return position % length, 1, 1
        bounds = [None if bound is None else int(value_of(bound, values)) for bound in self.bounds]
        chosen = range(length)[slice(*bounds)]
        return (chosen.start if len(chosen) else 0), len(chosen), chosen.step


def windows_of(fgraph: FunctionGraph, kinds: dict[Variable, Kind]) -> list[WindowSpec]:
    """All slices of inputs with bounds that depend on integer arguments."""
    found = []
    places = {x: place for place, x in enumerate(fgraph.inputs)}
    for node in fgraph.apply_nodes:
        if not isinstance(node.op, Subtensor | IncSubtensor):
            continue
        sliced = node.inputs[0]
        if sliced not in places or kinds[node.outputs[0]] != Kind.DEVICE:
            continue
        first = 1 if isinstance(node.op, Subtensor) else 2
        for axis, entry in enumerate(indices_from_subtensor(node.inputs[first:], node.op.idx_list)):
            bounds = (entry.start, entry.stop, entry.step) if isinstance(entry, slice) else entry
            parts = bounds if isinstance(bounds, tuple) else (bounds,)
            known = [kinds.get(part, Kind.CONSTANT) for part in parts if part is not None]
            if max(known, default=Kind.CONSTANT) == Kind.CALL:
                found.append(WindowSpec(node, axis, bounds, places[sliced]))
    return found


@dataclass(frozen=True)
class HostValues:
    """What a call computed on the host.

    Attributes
    ----------
    values : dict of Variable to NumPy array
        Of all variables of kinds SHAPE and CALL.
    windows : list of (int, int)
        Length and step of each of the program's windows.
    key : tuple of int
        The numbers that a captured graph holds as they are.
    feeds : tuple of int
        The numbers that it reads at each launch: `HostProgram.fed`, then the windows' starts.
    """

    values: dict[Variable, Any]
    windows: list[tuple[int, int]]
    key: tuple[int, ...]
    feeds: tuple[int, ...]


class HostProgram:
    """Computes at each call what is known on the host.

    Parameters
    ----------
    fgraph : FunctionGraph
    kinds : dict of Variable to Kind
    windows : list of WindowSpec
    demanded : list of Variable
        Those of kind CALL that captured graphs hold as they are.
    fed : list of Variable
        Those of kind CALL that are read as data.
    """

    def __init__(
        self,
        fgraph: FunctionGraph,
        kinds: dict[Variable, Kind],
        windows: list[WindowSpec],
        demanded: list[Variable],
        fed: list[Variable],
    ) -> None:
        self.inputs, self.windows = fgraph.inputs, windows
        self.demanded, self.fed = demanded, fed
        early = (Kind.CONSTANT, Kind.SHAPE, Kind.CALL)
        self.nodes = [node for node in fgraph.toposort() if kinds[node.outputs[0]] in early]
        self.kinds = kinds
        self._remembered: dict[Any, HostValues] = {}

    def __call__(self, integers: tuple[int, ...], shapes: Shapes) -> HostValues:
        """Compute for integer arguments, in the order of `inputs` of kind CALL, and the shapes of all inputs."""
        asked = (integers, tuple(shapes))
        found = self._remembered.get(asked)
        if found is None:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[asked] = self._computed(integers, shapes)
        return found

    def _computed(self, integers: tuple[int, ...], shapes: Shapes) -> HostValues:
        values: dict[Variable, Any] = {}
        given = iter(integers)
        for x in self.inputs:
            if self.kinds[x] == Kind.CALL:
                values[x] = np.asarray(next(given), dtype=x.type.dtype)
        of_input = dict(zip(self.inputs, shapes))
        for node in self.nodes:
            if isinstance(node.op, Shape | Shape_i) and node.inputs[0] in of_input:
                shape = of_input[node.inputs[0]]
                whole = np.array(shape, dtype=np.int64)
                values[node.outputs[0]] = whole if isinstance(node.op, Shape) else np.asarray(whole[node.op.i])
            else:
                evaluate(node, values)
        windows, starts = [], []
        for window in self.windows:
            start, length, step = window.resolve(values, shapes[window.source][window.axis])
            windows.append((length, step))
            starts.append(start)
        numbers = [number for x in self.demanded for number in np.ravel(values[x]).tolist()]
        key = (*numbers, *(length for window in windows for length in window))
        return HostValues(values, windows, key, (*(values[x].item() for x in self.fed), *starts))


def value_of(variable: Variable, values: dict[Variable, Any]) -> Any:
    """The value of a variable or a constant."""
    return variable.data if isinstance(variable, Constant) else values[variable]


def evaluate(node: Apply, values: dict[Variable, Any]) -> None:
    """Compute a small node on the host, from ``values`` into them."""
    arguments = [value_of(x, values) for x in node.inputs]
    scalar = _scalar_implementation(node)
    if scalar is not None:
        results = scalar(*(np.asarray(x).item() for x in arguments))
        results = results if len(node.outputs) > 1 else [results]
        arrays = [np.asarray(result, dtype=x.type.dtype) for result, x in zip(results, node.outputs)]
    else:
        cells: list[list[Any]] = [[None] for _ in node.outputs]
        node.op.perform(node, [_as_type(x, v) for x, v in zip(arguments, node.inputs)], cells)
        arrays = [np.asarray(cell[0]) for cell in cells]
    values.update(zip(node.outputs, arrays))


def _as_type(value: Any, variable: Variable) -> Any:
    """A value as `perform` wants it: scalars as NumPy's numbers, tensors as arrays."""
    array = np.asarray(value, dtype=variable.type.dtype)
    return array[()] if isinstance(variable.type, ScalarType) else array


def _scalar_implementation(node: Apply) -> Callable[..., Any] | None:
    """The Python function of an elementwise Op on numbers, which is faster than NumPy's on arrays of one."""
    if not isinstance(node.op, Elemwise) or any(x.type.ndim for x in node.inputs):
        return None
    scalar = node.op.scalar_op
    return None if isinstance(scalar, Composite) else scalar.impl
