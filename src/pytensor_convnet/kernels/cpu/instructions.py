"""Numbers, tuples and arrays as Numba represents them, and the instructions that Python's operations on them become.

What `translation` writes functions with. A `Value` is known when the code runs; what is known before is a Python
object, and stays one as long as only such meet.
"""

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion

from pytensor_convnet.kernels.cpu.llvm import bytes_of, int1, int64, new_place
from pytensor_convnet.kernels.cpu.structures import array_field, array_fields, view

OPERATORS: dict[str, tuple[Any, str, str]] = {
    "Add": (operator.add, "add", "fadd"),
    "Sub": (operator.sub, "sub", "fsub"),
    "Mult": (operator.mul, "mul", "fmul"),
    "Div": (operator.truediv, "sdiv", "fdiv"),
    "FloorDiv": (operator.floordiv, "sdiv", ""),
    "Mod": (operator.mod, "srem", ""),
    "BitAnd": (operator.and_, "and_", ""),
    "BitOr": (operator.or_, "or_", ""),
}
"""By the names of Python's syntax: the operation, and LLVM's instructions for integers and, if any, for floats."""

COMPARISONS: dict[str, tuple[Any, str]] = {
    "Eq": (operator.eq, "=="),
    "NotEq": (operator.ne, "!="),
    "Lt": (operator.lt, "<"),
    "LtE": (operator.le, "<="),
    "Gt": (operator.gt, ">"),
    "GtE": (operator.ge, ">="),
}


@dataclass(frozen=True)
class Value:
    """A value of one of Numba's types, as its instructions take it."""

    type: types.Type
    value: ir.Value


class Place(NamedTuple):
    """Where a variable that changes is kept, or each item of one that is a tuple; LLVM makes registers of it."""

    type: types.Type
    kept: "ir.Value | tuple[Place, ...]"


class Instructions:
    """What is done with values at the place where a function is being written."""

    def __init__(self, typing_context, context, builder):
        self.typing_context, self.context, self.builder = typing_context, context, builder

    # -------------------------------------------------------------------------------------------- numbers

    def typed(self, thing) -> Value:
        """A Python object as a value."""
        if isinstance(thing, Value):
            return thing
        if isinstance(thing, (bool, np.bool_)):
            return Value(types.boolean, int1(bool(thing)))
        if isinstance(thing, (int, np.integer)):
            return Value(types.intp, int64(int(thing)))
        if isinstance(thing, (float, np.floating)):
            return Value(types.float64, ir.DoubleType()(float(thing)))
        if isinstance(thing, tuple):
            return self.make_tuple(thing)
        # A dtype, then.
        return Value(self.typing_context.resolve_value_type(thing), self.context.get_dummy_value())

    def cast(self, thing, type_):
        """The value of ``thing`` as one of another type that holds it, or of floats, to which numbers are rounded."""
        given = self.typed(thing)
        if given.type == type_:
            return given.value
        conversion = self.typing_context.can_convert(given.type, type_)
        rounded = isinstance(given.type, types.Number) and isinstance(type_, types.Float)
        if conversion is None or (conversion > Conversion.safe and not rounded):
            raise TypeError(f"{given.type} where {type_} is needed")
        return self.context.cast(self.builder, given.value, given.type, type_)

    def integer(self, thing):
        return self.cast(thing, types.intp)

    def truth(self, thing):
        """Whether a number is not zero: a bool, or a bit."""
        if not isinstance(thing, Value):
            return bool(thing)
        return (
            thing.value
            if thing.type == types.boolean
            else self.builder.icmp_signed("!=", self.integer(thing), int64(0))
        )

    def operate(self, name, a, b):
        """``a`` and ``b`` under one of `OPERATORS`."""
        in_python, of_integers, of_floats = OPERATORS[name]
        if not (isinstance(a, Value) or isinstance(b, Value)):
            return in_python(a, b)
        a, b = self.typed(a), self.typed(b)
        if a.type == b.type == types.boolean and name in ("BitAnd", "BitOr"):
            return Value(types.boolean, getattr(self.builder, of_integers)(a.value, b.value))
        type_ = types.float64 if name == "Div" else _common_type(a.type, b.type)
        first, second = self.cast(a, type_), self.cast(b, type_)
        if type_ != types.intp:
            if not of_floats:
                raise TypeError(f"{name} of floats")
            return Value(type_, getattr(self.builder, of_floats)(first, second))
        if name in ("FloorDiv", "Mod"):
            return Value(type_, self._divide(first, second)[name == "Mod"])
        return Value(type_, getattr(self.builder, of_integers)(first, second))

    def _divide(self, a, b):
        """The quotient, rounded down, and the rest, which has the sign of ``b``; nothing is trapped where that is 0."""
        builder, zero = self.builder, int64(0)
        if isinstance(b, ir.Constant) and b.constant > 0 and b.constant & (b.constant - 1) == 0:
            return builder.ashr(a, int64(b.constant.bit_length() - 1)), builder.and_(a, int64(b.constant - 1))
        if not isinstance(b, ir.Constant):
            b = builder.select(builder.icmp_signed("==", b, zero), int64(1), b)
        quotient, rest = builder.sdiv(a, b), builder.srem(a, b)
        apart = builder.icmp_signed("<", builder.xor(rest, b), zero)
        apart = builder.and_(apart, builder.icmp_signed("!=", rest, zero))
        return builder.sub(quotient, builder.zext(apart, int64)), builder.select(apart, builder.add(rest, b), rest)

    def divmod(self, a, b):
        quotient, rest = self._divide(self.integer(a), self.integer(b))
        return Value(types.intp, quotient), Value(types.intp, rest)

    def negate(self, thing):
        return self.operate("Sub", 0, thing) if isinstance(thing, Value) else -thing

    def compare(self, name, a, b):
        """``a`` and ``b`` under one of `COMPARISONS`; tuples are equal if all their items are."""
        in_python, sign = COMPARISONS[name]
        if not (isinstance(a, Value) or isinstance(b, Value)):
            return in_python(a, b)
        a, b = self.typed(a), self.typed(b)
        if isinstance(a.type, types.BaseTuple):
            equal = int1(1)
            for i in range(a.type.count):
                same = self.compare("Eq", self.item(a, i), self.item(b, i))
                equal = self.builder.and_(equal, self.typed(same).value)
            return Value(types.boolean, equal if name == "Eq" else self.builder.not_(equal))
        type_ = _common_type(a.type, b.type)
        first, second = self.cast(a, type_), self.cast(b, type_)
        if type_ == types.intp:
            return Value(types.boolean, self.builder.icmp_signed(sign, first, second))
        ordered = self.builder.fcmp_unordered if name == "NotEq" else self.builder.fcmp_ordered
        return Value(types.boolean, ordered(sign, first, second))

    def extreme(self, name, things):
        """The smallest of numbers for the name "Lt", the largest for "Gt", the first of equals."""
        best = things[0]
        for thing in things[1:]:
            wins = self.compare(name, thing, best)
            if isinstance(wins, Value):
                a, b = self.typed(thing), self.typed(best)
                type_ = _common_type(a.type, b.type)
                best = Value(type_, self.builder.select(wins.value, self.cast(a, type_), self.cast(b, type_)))
            elif wins:
                best = thing
        return best

    # ------------------------------------------------------------------------------------------ variables

    def keep(self, type_):
        """A place for values of a type."""
        if isinstance(type_, types.BaseTuple):
            return Place(type_, tuple(self.keep(item) for item in type_.types))
        return Place(type_, new_place(self.builder, self.context.get_value_type(type_)))

    def put(self, thing, place):
        """Let a place hold ``thing``."""
        value = self.cast(thing, place.type)
        if isinstance(place.kept, tuple):
            for i, part in enumerate(place.kept):
                self.put(self.item(Value(place.type, value), i), part)
        else:
            self.builder.store(value, place.kept)

    def get(self, place):
        """What a place holds."""
        if not isinstance(place.kept, tuple):
            return Value(place.type, self.builder.load(place.kept))
        items = [self.get(part).value for part in place.kept]
        return Value(place.type, self.context.make_tuple(self.builder, place.type, items))

    # --------------------------------------------------------------------------------------------- tuples

    def make_tuple(self, items, of=None) -> Value:
        """Values as a tuple, or as one of the class ``of`` with names."""
        values = [self.typed(item) for item in items]
        type_ = types.BaseTuple.from_types([value.type for value in values], of)
        return Value(type_, self.context.make_tuple(self.builder, type_, [value.value for value in values]))

    def item(self, thing, index):
        """The item of a tuple at a place."""
        if isinstance(index, slice):
            return self.make_tuple(self.items(thing)[index])
        if isinstance(index, Value):
            return self._number_at(thing, index)
        if not isinstance(thing, Value):
            return thing[index]
        index = range(thing.type.count)[index]
        return Value(thing.type.types[index], self.builder.extract_value(thing.value, index))

    def _number_at(self, thing, index):
        """The number at a place, known late, of a tuple or of constants."""
        if isinstance(thing, Value):
            type_, table = thing.type.dtype, cgutils.alloca_once_value(self.builder, thing.value)
        else:
            values = [self.typed(number) for number in thing]
            type_, element = values[0].type, values[0].value.type
            constants = ir.Constant(ir.ArrayType(element, len(values)), [value.value for value in values])
            table = cgutils.global_constant(self.builder, "table", constants)
        return Value(type_, self.builder.load(cgutils.gep_inbounds(self.builder, table, 0, index.value)))

    def items(self, thing):
        return [self.item(thing, i) for i in range(thing.type.count)] if isinstance(thing, Value) else list(thing)

    def attribute(self, thing, name):
        if not isinstance(thing, Value):
            return getattr(thing, name)
        if isinstance(thing.type, types.BaseNamedTuple):
            return self.item(thing, thing.type.fields.index(name))
        if name == "ndim":
            return thing.type.ndim
        if name == "itemsize":
            return self._item_bytes(thing.type)
        if name == "size":
            return Value(types.intp, self._field(thing, "nitems"))
        if name == "nbytes":
            return self.operate("Mult", self.attribute(thing, "size"), self._item_bytes(thing.type))
        if name == "dtype":
            return Value(types.DType(thing.type.dtype), self.context.get_dummy_value())
        if name in ("shape", "strides"):
            return Value(types.UniTuple(types.intp, thing.type.ndim), self._field(thing, name))
        raise TypeError(f"{thing.type} has no {name} here")

    # --------------------------------------------------------------------------------------------- arrays

    def _item_bytes(self, array_type):
        return bytes_of(array_type.dtype)

    def _field(self, array, name):
        """A field of an array's structure."""
        return array_field(self.context, self.builder, array.type, array.value, name)

    def _lengths(self, array):
        return array_fields(self.context, self.builder, array.type, array.value, "shape")

    def _steps(self, array):
        steps = array_fields(self.context, self.builder, array.type, array.value, "strides")
        if array.type.layout == "C":
            steps[-1] = int64(self._item_bytes(array.type))
        return steps

    def length(self, array):
        return Value(types.intp, self._lengths(array)[0])

    def address(self, array):
        return Value(types.intp, self.builder.ptrtoint(self._field(array, "data"), int64))

    def pointer(self, array, indices):
        """Where an element is."""
        builder, data = self.builder, self._field(array, "data")
        numbers = []
        for index, length in zip(indices, self._lengths(array)):
            backwards = not isinstance(index, Value) and index < 0
            numbers.append(builder.add(length, self.integer(index)) if backwards else self.integer(index))
        if array.type.ndim == 1 and array.type.layout == "C":
            return builder.gep(data, numbers)
        place = int64(0)
        for number, step in zip(numbers, self._steps(array)):
            place = builder.add(place, builder.mul(number, step))
        first = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [place])
        return builder.bitcast(first, data.type)

    def load(self, array, indices):
        """An element."""
        pointer = self.pointer(array, indices)
        return Value(array.type.dtype, self.context.unpack_value(self.builder, array.type.dtype, pointer))

    def store(self, array, indices, thing):
        """Set an element."""
        number = self.cast(thing, array.type.dtype)
        self.context.pack_value(self.builder, array.type.dtype, number, self.pointer(array, indices))

    def fill(self, array, thing):
        """Set all elements of an array whose numbers follow each other, or of one with a single axis."""
        if array.type.layout == "C" and not isinstance(thing, Value) and thing == 0:
            nbytes = self.builder.mul(self._field(array, "nitems"), int64(self._item_bytes(array.type)))
            cgutils.memset(self.builder, self._field(array, "data"), nbytes, 0)
            return
        if array.type.ndim > 1:
            if array.type.layout != "C":
                raise TypeError("only arrays that are contiguous are filled")
            size = self._field(array, "nitems")
            array = self._view(array, self._field(array, "data"), [size], [int64(self._item_bytes(array.type))], "C")
        number = Value(array.type.dtype, self.cast(thing, array.type.dtype))
        (length,) = self._lengths(array)
        with cgutils.for_range(self.builder, length) as loop:
            self.store(array, [Value(types.intp, loop.index)], number)

    def view(self, array, subscripts):
        """Part of an array, by an index or a slice for each of its first axes.

        A slice ends where the array does at the latest; one with a step has no ends, and the step is 1 or -1.
        """
        places, lengths, steps = [], [], []
        given, own_lengths, own_steps = [*subscripts], self._lengths(array), self._steps(array)
        given += [slice(None)] * (array.type.ndim - len(given))
        for subscript, length, step in zip(given, own_lengths, own_steps):
            if not isinstance(subscript, slice):
                places.append(subscript)
                continue
            start, length, step = self._cut(subscript, length, step)
            places.append(start)
            lengths.append(length)
            steps.append(step)
        cut = max((i for i, item in enumerate(given) if isinstance(item, slice) and item != slice(None)), default=-1)
        first = next(i for i, item in enumerate(given) if isinstance(item, slice))
        contiguous = array.type.layout == "C" and cut <= first and all(isinstance(i, slice) for i in given[first:])
        contiguous = contiguous and given[first].step is None
        return self._view(array, self.pointer(array, places), lengths, steps, "C" if contiguous else "A")

    def _cut(self, subscript, length, step):
        """The first index of a slice, its length, and the stride of its axis."""
        builder = self.builder
        if subscript.step is None:
            start = int64(0) if subscript.start is None else self.integer(subscript.start)
            if subscript.stop is not None:
                stop = self.integer(subscript.stop)
                length = builder.select(builder.icmp_signed("<", stop, length), stop, length)
            length = builder.sub(length, start)
            length = builder.select(builder.icmp_signed("<", length, int64(0)), int64(0), length)
            return Value(types.intp, start), length, step
        direction = self.integer(subscript.step)
        backwards = builder.icmp_signed("<", direction, int64(0))
        last = builder.sub(length, int64(1))
        return (
            Value(types.intp, builder.select(backwards, last, int64(0))),
            length,
            builder.mul(step, direction),
        )

    def _view(self, array, pointer, lengths, steps, layout):
        type_ = array.type.copy(ndim=len(lengths), layout=layout)
        return Value(type_, view(self.context, self.builder, type_, array.type, array.value, pointer, lengths, steps))


def _common_type(*number_types):
    """What numbers of such types are converted to when they meet."""
    floats = [type_ for type_ in number_types if isinstance(type_, types.Float)]
    if not floats:
        return types.intp
    return floats[0] if all(type_ == floats[0] for type_ in number_types) else types.float64
