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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.raise_op import CheckAndRaise
from pytensor.scalar.basic import ScalarType
from pytensor.tensor.basic import Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Max, Min, Prod, Sum
from pytensor.tensor.shape import Reshape, Shape, Shape_i
from pytensor.tensor.subtensor import IncSubtensor, Subtensor, indices_from_subtensor
from pytensor.tensor.type import TensorType

from pytensor_convnet.cuda.host_arithmetic import evaluate, numbers_function

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
    CheckAndRaise,
)  # fmt: skip
"""Ops that are computed on the host where all their inputs are known there."""


def is_small(variable: Variable) -> bool:
    """Whether a variable is a number or a vector, as shapes are."""
    return isinstance(variable.type, ScalarType) or (isinstance(variable.type, TensorType) and variable.type.ndim <= 1)


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
            alone = len(node.outputs) == 1
            computable = isinstance(node.op, _SMALL) and alone and all(map(is_small, (*node.inputs, *node.outputs)))
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

    def variables(self) -> list[Variable]:
        """The bounds, or the position, that there are."""
        parts = self.bounds if isinstance(self.bounds, tuple) else (self.bounds,)
        return [part for part in parts if part is not None]

    def resolve(self, numbers: dict[Variable, Any], length: int) -> tuple[int, int, int]:
        """Start, length and step within an axis of ``length``, of bounds that have these values."""
        if not isinstance(self.bounds, tuple):
            position = int(numbers[self.bounds])
            if not -length <= position < length:
                source = self.node.inputs[0]
                raise IndexError(f"index {position} is out of bounds for axis {self.axis} of {source}, of {length}")
            return position % length, 1, 1
        bounds = [None if bound is None else int(numbers[bound]) for bound in self.bounds]
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
            window = WindowSpec(node, axis, bounds, places[sliced])
            known = [kinds.get(part, Kind.CONSTANT) for part in window.variables()]
            if max(known, default=Kind.CONSTANT) == Kind.CALL:
                found.append(window)
    return found


@dataclass(frozen=True)
class HostNumbers:
    """What a call computed on the host.

    Attributes
    ----------
    key : tuple
        The numbers that a captured graph holds as they are.
    feeds : tuple of int
        The numbers that it reads at each launch: `HostProgram.fed`, then the windows' starts.
    windows : tuple of (int, int)
        Length and step of each of the program's windows.
    """

    key: tuple[Any, ...]
    feeds: tuple[int, ...]
    windows: tuple[tuple[int, int], ...]


class HostProgram:
    """Computes at each call what is known on the host.

    What follows from shapes is computed when shapes change; what a call's integers decide, at each call that brings new
    ones, in Python's integers: a captured step takes some hundred microseconds, and this must be done sooner.

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
        self._given = [x for x in fgraph.inputs if kinds[x] == Kind.CALL]
        nodes = fgraph.toposort()
        self._of_shapes = [node for node in nodes if kinds[node.outputs[0]] <= Kind.SHAPE]
        self._of_calls = [node for node in nodes if kinds[node.outputs[0]] == Kind.CALL]
        bounds = [x for window in windows for x in window.variables()]
        self._wanted = list(dict.fromkeys([*demanded, *fed, *bounds]))
        self._function = numbers_function(self._given, self._wanted, self._of_calls)
        self._shapes: Shapes = ()
        self._shape_values: dict[Variable, Any] = {}
        self._remembered: dict[tuple[int, ...], HostNumbers] = {}

    def __call__(self, integers: tuple[int, ...], shapes: Shapes) -> HostNumbers:
        """Compute for integer arguments, in the order of `inputs` of kind CALL, and the shapes of all inputs."""
        self._see(shapes)
        found = self._remembered.get(integers)
        if found is None:
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[integers] = self._numbers(integers)
        return found

    def values(self, integers: tuple[int, ...], shapes: Shapes) -> dict[Variable, Any]:
        """The values of all variables of kinds SHAPE and CALL, as NumPy arrays."""
        self._see(shapes)
        given = {x: np.asarray(number, x.type.dtype) for x, number in zip(self._given, integers, strict=True)}
        values = self._shape_values | given
        for node in self._of_calls:
            evaluate(node, values)
        return values

    def _see(self, shapes: Shapes) -> None:
        """Compute what follows from shapes, if they are others than before."""
        if shapes is self._shapes or shapes == self._shapes:
            return
        self._remembered.clear()
        values: dict[Variable, Any] = {}
        of_input = dict(zip(self.inputs, shapes))
        for node in self._of_shapes:
            if isinstance(node.op, Shape | Shape_i):
                whole = np.array(of_input[node.inputs[0]], dtype=np.int64)
                values[node.outputs[0]] = whole if isinstance(node.op, Shape) else np.asarray(whole[node.op.i])
            else:
                evaluate(node, values)
        self._shape_values, self._shapes = values, shapes

    def _numbers(self, integers: tuple[int, ...]) -> HostNumbers:
        lengths = [self._shapes[window.source][window.axis] for window in self.windows]
        values = dict(zip(self._wanted, self._function(self._shape_values, *integers)))
        resolved = [window.resolve(values, length) for window, length in zip(self.windows, lengths)]
        windows = tuple((length, step) for _, length, step in resolved)
        # Each with its own length: vectors that are split elsewhere have the same entries.
        held = tuple(tuple(np.ravel(values[x]).tolist()) for x in self.demanded)
        starts = (start for start, _, _ in resolved)
        return HostNumbers((held, windows), (*(values[x] for x in self.fed), *starts), windows)
