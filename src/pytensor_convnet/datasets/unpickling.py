"""A reader of the pickles that data sets are published in, which runs nothing that they name.

A pickle is a program for a stack machine, and Python's own machine calls whatever function a pickle names.
The machine here has only the instructions that a dictionary of strings, integers, lists and arrays of bytes
needs. The four names such a pickle must hold (`ADMITTED`) are never looked up: an array is rebuilt from its
bytes, by the few lines below. So a hostile file can neither call anything nor have NumPy make an array of
objects or of a made-up size, and as the module imports no unpickler, it cannot be talked into one. Nor can
a small file grow: instructions, and the text they turn to bytes, are bounded by what an honest file holds.

Protocol 2 is what Python 2 wrote (CIFAR-10 as published). The instructions that protocols 3 and 4 add for
strings and bytes are here as well: they come with copies saved again by Python 3.
"""

import math
import pickletools
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytensor_convnet.datasets.base import LARGEST_FILE, CorruptData, read_file

ADMITTED = {
    "numpy.core.multiarray._reconstruct": "_reconstruct",
    "numpy._core.multiarray._reconstruct": "_reconstruct",
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": "numpy.dtype",
    "_codecs.encode": "_codecs.encode",  # how protocol 2 of Python 3 writes bytes
}
"""The only globals a pickle may name, and what each is called here."""

CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "SHORT_BINSTRING",
    "BINSTRING",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "SHORT_BINBYTES",
    "BINBYTES",
}
TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
WITHOUT_EFFECT = {"PROTO", "FRAME"}

MOST_INSTRUCTIONS = 1_000_000
"""A published batch of CIFAR-10 has some 30,000."""

LONGEST_KEY = 100


@dataclass(frozen=True)
class Global:
    """A name that a pickle holds, where Python's unpickler would hold what it names."""

    name: str


@dataclass(frozen=True)
class ByteType:
    """Stands for ``numpy.dtype('u1')``, the one type of array admitted."""


@dataclass(eq=False)
class ByteArray:
    """An array of bytes, from its making until its content arrives."""

    values: np.ndarray | None = None


def read_pickle(path: Path | str) -> dict[str, Any]:
    """The dictionary that a pickle holds.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        Its keys and all strings of Python 2 as str, decoded as Latin-1; its arrays as uint8 arrays.

    Raises
    ------
    CorruptData
        The file is damaged, or names a global or holds an instruction that such a dictionary does not need.
        Nothing that it names has been imported or called.

    Examples
    --------
    >>> import pickle, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "batch")
    ...     _ = path.write_bytes(pickle.dumps({b"labels": [6, 9]}, protocol=2))
    ...     read_pickle(path)
    {'labels': [6, 9]}
    """
    path = Path(path)
    content = read_file(path)
    result = _Machine(path).run(content)
    if not isinstance(result, dict):
        raise CorruptData(f"{path}: expected a pickled dictionary, found {_kind(result)}")
    return {key: _finished(path, value) for key, value in result.items()}


def _finished(path: Path, value: Any) -> Any:
    if not isinstance(value, ByteArray):
        return value
    if value.values is None:
        raise CorruptData(f"{path}: expected a pickled array with its content, found one without")
    return value.values


def _kind(value: Any) -> str:
    return f"the global {value.name}" if isinstance(value, Global) else type(value).__name__


class _Machine:
    """The stack machine: `stack` is the current one, `outer` those that MARK set aside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.converted = 0

    def run(self, content: bytes) -> Any:
        """What is on the stack when the program stops."""
        for count, (name, argument, position) in enumerate(self.instructions(content)):
            if count == MOST_INSTRUCTIONS:
                raise self.corrupt(f"at most {MOST_INSTRUCTIONS} pickle instructions", "more")
            if name == "STOP":
                if position + 1 != len(content):
                    raise self.corrupt(f"the end after {position + 1} bytes", f"{len(content)} bytes")
                break
            self.step(name, argument)
        return self.pop()

    def instructions(self, content: bytes) -> Iterator[tuple[str, Any, int]]:
        """Name, argument and position of each instruction, as far as they can be read."""
        try:
            for opcode, argument, position in pickletools.genops(content):
                yield opcode.name, argument, position or 0
        except ValueError as error:
            raise self.corrupt("a whole pickle", f"it damaged: {error}") from error

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLE_LENGTHS:
            items = [self.pop() for _ in range(TUPLE_LENGTHS[name])]
            self.stack.append(tuple(reversed(items)))
        elif name not in WITHOUT_EFFECT:
            self.step_on_stack(name, argument)

    def step_on_stack(self, name: str, argument: Any) -> None:
        """Carry out an instruction that needs more than its own argument."""
        match name:
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = tuple(self.pop_to_mark())
                self.stack.append(items)
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items([self.pop(), self.pop()][::-1])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise self.corrupt("a whole pickle", f"a reference to value {argument}, which it lacks")
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.push_global(argument.replace(" ", "."))
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                if not (isinstance(module, str) and isinstance(attribute, str)):
                    raise self.corrupt("a global's name", f"{_kind(module)} and {_kind(attribute)}")
                self.push_global(f"{module}.{attribute}")
            case "REDUCE":
                arguments = self.pop()
                self.stack.append(self.call(self.pop(), arguments))
            case "BUILD":
                state = self.pop()
                self.build(self.top(), state)
            case _:
                found = f"instruction {name}"
                if isinstance(argument, str):
                    found += f" {reprlib.repr(argument)}"
                raise self.corrupt("a dictionary of strings, integers, lists and arrays of bytes", found)

    def corrupt(self, expected: str, found: str) -> CorruptData:
        return CorruptData(f"{self.path}: expected {expected}, found {found}")

    def top(self) -> Any:
        if not self.stack:
            raise self.corrupt("a whole pickle", "an instruction that lacks its operand")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.outer:
            raise self.corrupt("a whole pickle", "an instruction that lacks its mark")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise self.corrupt("a list to append to", _kind(target))
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Store ``items``, keys and values in turn.

        Keys must be short strings: to hash deeply nested tuples would overflow the stack of C.
        """
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise self.corrupt("a dictionary and pairs of key and value", _kind(target))
        for key, value in zip(items[::2], items[1::2]):
            if not isinstance(key, str | bytes) or len(key) > LONGEST_KEY:
                raise self.corrupt("short strings as keys", reprlib.repr(key))
            target[key.decode("latin-1") if isinstance(key, bytes) else key] = value

    def push_global(self, name: str) -> None:
        if name not in ADMITTED:
            raise CorruptData(
                f"{self.path}: refused the global {reprlib.repr(name)}, which no such data set needs; "
                "it was not imported"
            )
        self.stack.append(Global(ADMITTED[name]))

    def call(self, function: Any, arguments: Any) -> Any:
        """What an admitted function would return, for the only arguments it needs to take."""
        match function, arguments:
            case Global(name="numpy.dtype"), ("u1" | b"u1", *_):
                return ByteType()
            case Global(name="_reconstruct"), (Global(name="numpy.ndarray"), (0,), _):
                return ByteArray()
            case Global(name="_codecs.encode"), (str(text), "latin1" | "latin-1"):
                return self.latin1(text)
        raise self.corrupt(
            "an array of bytes (numpy.dtype 'u1') or Latin-1 text",
            f"a call of {_kind(function)} with {reprlib.repr(arguments)}",
        )

    def build(self, target: Any, state: Any) -> None:
        """Fill an array with its content, as ``numpy.ndarray.__setstate__`` would."""
        match target, state:
            case ByteType(), tuple():
                pass  # byte order, fields and alignment, of which a byte has none
            case ByteArray(), (int(), tuple(shape), ByteType(), int(in_columns), str() | bytes() as content):
                content = self.latin1(content) if isinstance(content, str) else content
                if not all(type(length) is int and length >= 0 for length in shape):
                    raise self.corrupt("an array's shape", reprlib.repr(shape))
                if len(shape) > 2 or math.prod(shape) != len(content) or not content:
                    raise self.corrupt(f"{len(content)} bytes in a table", f"shape {reprlib.repr(shape)}")
                values = np.frombuffer(content, np.uint8)
                target.values = values.reshape(shape, order="F" if in_columns else "C")
            case _:
                raise self.corrupt("the content of an array of bytes", f"content for {_kind(target)}")

    def latin1(self, text: str) -> bytes:
        """``text`` as bytes. An honest file holds as much text as it converts; one text many times is a trap."""
        self.converted += len(text)
        if self.converted > LARGEST_FILE:
            raise self.corrupt(f"at most {LARGEST_FILE} bytes", "more")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise self.corrupt("Latin-1 text", str(error)) from error
