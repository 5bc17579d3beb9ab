"""Small nodes computed on the host: one after the other by NumPy, or many as one function of Python's numbers.

`hosting` says which nodes these are. A captured step takes some hundred microseconds, and what a call's integers decide
must be known sooner: for that a function is written out, as Python's numbers are faster than NumPy's arrays of one.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.scalar.basic import Composite, Invert, ScalarType
from pytensor.tensor.basic import MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.type import TensorType

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def is_host_integer(variable: Variable) -> bool:
    """Whether a variable is one integer."""
    return (
        isinstance(variable.type, TensorType | ScalarType)
        and getattr(variable.type, "ndim", 0) == 0
        and variable.type.dtype in ("bool", *_INTEGERS)
    )


_EXPRESSIONS = {
    "Add": " + ".join, "Mul": " * ".join, "Sub": " - ".join,
    "IntDiv": lambda x: f"{x[0]} // {x[1]} if {x[1]} else 0", "Mod": lambda x: f"{x[0]} % {x[1]} if {x[1]} else 0",
    "LT": " < ".join, "LE": " <= ".join, "GT": " > ".join, "GE": " >= ".join, "EQ": " == ".join, "NEQ": " != ".join,
    "AND": " & ".join, "OR": " | ".join, "Neg": lambda x: f"-{x[0]}", "Identity": lambda x: x[0],
    "Maximum": lambda x: f"max({', '.join(x)})", "Minimum": lambda x: f"min({', '.join(x)})",
    "Switch": lambda x: f"{x[1]} if {x[0]} else {x[2]}",
}  # fmt: skip
"""What scalar Ops are in Python, by name. A quotient by zero is not an error: a `Switch` after it may not choose it."""


def numbers_function(given: Sequence[Variable], wanted: Sequence[Variable], nodes: Sequence[Apply]) -> Any:
    """A Python function that computes numbers from numbers, written out and compiled: one line a node.

    Parameters
    ----------
    given : sequence of Variable
        The function's arguments, after a dict of what is known of shapes.
    wanted : sequence of Variable
        What it returns, as a list.
    nodes : sequence of Apply
        In an order in which they can be computed; those that are not needed are left out.
    """
    names: dict[Variable, str] = {x: f"given{place}" for place, x in enumerate(given)}
    held: dict[str, Any] = {}
    lines: list[str] = []

    def name_of(x: Variable) -> str:
        if x not in names:
            names[x] = name = f"known{len(names)}"
            if isinstance(x, Constant):
                held[name] = _number(x.data)
            else:
                held.update({f"variable_{name}": x, "number": _number})
                lines.append(f"{name} = number(shapes[variable_{name}])")
        return names[x]

    for node in _needed_for(wanted, nodes):
        operands = [name_of(x) for x in node.inputs]
        result = names[node.outputs[0]] = f"value{len(names)}"
        expression = _expression(node, operands)
        if expression is None:
            held[f"compute_{result}"] = _Computed(node)
            expression = f"compute_{result}({', '.join(operands)})"
        lines.append(f"{result} = {expression}")
    lines.append(f"return [{', '.join(name_of(x) for x in wanted)}]")
    arguments = ", ".join(["shapes", *(names[x] for x in given)])
    exec("def function(" + arguments + "):\n    " + "\n    ".join(lines), held)
    return held["function"]


def _needed_for(wanted: Sequence[Variable], nodes: Sequence[Apply]) -> list[Apply]:
    """The nodes that some variables need."""
    needed = set(wanted)
    found = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            found.append(node)
    return found[::-1]


def _expression(node: Apply, operands: list[str]) -> str | None:
    """A node in Python; None where only NumPy computes it."""
    if isinstance(node.op, ScalarFromTensor | TensorFromScalar):
        return operands[0]
    if isinstance(node.op, MakeVector):
        return f"({', '.join(operands)},)"
    numbers = isinstance(node.op, Elemwise) and not any(x.type.ndim for x in node.inputs)
    name = type(node.op.scalar_op).__name__ if numbers else ""
    whole = all(x.type.dtype in ("bool", *_INTEGERS) for x in (*node.inputs, *node.outputs))
    if name not in _EXPRESSIONS or not whole:
        return None
    expression = _EXPRESSIONS[name](operands)
    return _wrapped(expression, node.outputs[0].type.dtype) if name in _LEAVES_ITS_DTYPE else expression


_LEAVES_ITS_DTYPE = ("Add", "Mul", "Sub", "Neg", "IntDiv")


def _wrapped(expression: str, dtype: str) -> str:
    """An expression's value in the range of a dtype: Python's integers have no end, those of NumPy begin anew."""
    if dtype == "bool":
        return f"bool({expression})"
    limits = np.iinfo(dtype)
    mask, low = int(limits.max) - int(limits.min), int(limits.min)
    return f"({expression}) & {mask}" if low == 0 else f"((({expression}) - {low}) & {mask}) + {low}"


def _number(value: Any) -> Any:
    """Python's number, or an array where it has axes."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value


class _Computed:
    """A node by NumPy. What it gave last is kept: most of what is computed so are lengths, which seldom change."""

    def __init__(self, node: Apply) -> None:
        self.node = node
        self.of_integers = all(map(is_host_integer, node.inputs))
        self.seen: Any = None
        self.result: Any = None

    def __call__(self, *operands: Any) -> Any:
        # Bytes tell -0.0 from 0, and arrays from each other; integers are sooner compared as they are.
        seen = operands if self.of_integers else pickle.dumps(operands)
        if seen != self.seen:
            values = {x: np.asarray(value, x.type.dtype) for x, value in zip(self.node.inputs, operands)}
            evaluate(self.node, values)
            self.seen, self.result = seen, _number(values[self.node.outputs[0]])
        return self.result


def value_of(variable: Variable, values: dict[Variable, Any]) -> Any:
    """The value of a variable or a constant."""
    return variable.data if isinstance(variable, Constant) else values[variable]


def evaluate(node: Apply, values: dict[Variable, Any]) -> None:
    """Compute a small node on the host, from ``values`` into them."""
    arguments = [value_of(x, values) for x in node.inputs]
    scalar = _scalar_implementation(node)
    if scalar is not None:
        try:
            result = scalar(*(np.asarray(x).item() for x in arguments))
            values[node.outputs[0]] = np.asarray(result, dtype=node.outputs[0].type.dtype)
            return
        except (ZeroDivisionError, OverflowError):
            pass  # in Python; NumPy has an answer
    cells: list[list[Any]] = [[None] for _ in node.outputs]
    with np.errstate(all="ignore"):
        node.op.perform(node, [_as_type(x, v) for x, v in zip(arguments, node.inputs)], cells)
    values.update((x, np.asarray(cell[0])) for x, cell in zip(node.outputs, cells))


def _as_type(value: Any, variable: Variable) -> Any:
    """A value as `perform` wants it: scalars as NumPy's numbers, tensors as arrays."""
    array = np.asarray(value, dtype=variable.type.dtype)
    return array[()] if isinstance(variable.type, ScalarType) else array


def _scalar_implementation(node: Apply) -> Callable[..., Any] | None:
    """The Python function of an elementwise Op on numbers, which is faster than NumPy's on arrays of one."""
    if not isinstance(node.op, Elemwise) or any(x.type.ndim for x in node.inputs):
        return None
    scalar = node.op.scalar_op
    return None if isinstance(scalar, Composite | Invert) else scalar.impl  # ~True is -2 in Python
