"""Structures of values, as Numba's tuples and arrays are, taken apart while code is written.

To LLVM a structure is a value, too: its fields are inserted one by one and extracted again. Parts pass tuples and
arrays to each other, and half of the instructions that they became did such. Here a field that was inserted is taken
from there, and what nobody has used is left out at the end.
"""

from collections import Counter

from llvmlite import ir
from llvmlite.ir.instructions import ExtractValue, InsertValue, LoadInstr, PhiInstr
from numba.core import cgutils

from pytensor_convnet.kernels.cpu.llvm import bytes_of, int64


class Builder(ir.IRBuilder):
    """LLVM's builder, but that a field is what was inserted there."""

    def extract_value(self, agg, idx, name=""):
        places = (idx,) if isinstance(idx, int) else tuple(idx)
        while places and isinstance(agg, InsertValue):
            inserted = tuple(agg.indices)
            if places[: len(inserted)] == inserted:
                agg, places = agg.operands[1], places[len(inserted) :]
            elif inserted[: len(places)] == places:
                break
            else:
                agg = agg.operands[0]
        return super().extract_value(agg, places, name) if places else agg


def _operands(instruction):
    return [value for value, _ in instruction.incomings] if isinstance(instruction, PhiInstr) else instruction.operands


def drop_unused(function):
    """Leave out what puts structures together, takes them apart, or loads, if nothing needs the result."""
    uses: Counter[int] = Counter()
    for block in function.blocks:
        for instruction in block.instructions:
            uses.update(map(id, _operands(instruction)))
    for block in reversed(function.blocks):
        kept = []
        for instruction in reversed(block.instructions):
            if isinstance(instruction, (ExtractValue, InsertValue, LoadInstr)) and not uses[id(instruction)]:
                uses.subtract(map(id, _operands(instruction)))
            else:
                kept.append(instruction)
        block.instructions[:] = reversed(kept)


def array_field(context, builder, array_type, array, name):
    """A field of an array's structure."""
    return builder.extract_value(array, context.data_model_manager[array_type].get_field_position(name))


def array_fields(context, builder, array_type, array, name):
    """The numbers of such a field, one for each axis: lengths or strides."""
    return cgutils.unpack_tuple(builder, array_field(context, builder, array_type, array, name), array_type.ndim)


def make_array(context, builder, array_type, data, shape, strides, memory=None, parent=None):
    """An array at the pointer ``data``; ``memory`` and ``parent`` are what keeps it there, if any."""
    size = int64(1)
    for length in shape:
        size = builder.mul(size, length)
    array = ir.Constant(context.get_value_type(array_type), ir.Undefined)
    fields = {
        "meminfo": memory, "parent": parent, "nitems": size, "itemsize": int64(bytes_of(array_type.dtype)),
        "data": data, "shape": cgutils.pack_array(builder, shape), "strides": cgutils.pack_array(builder, strides),
    }  # fmt: skip
    for name, value in fields.items():
        position = context.data_model_manager[array_type].get_field_position(name)
        value = ir.Constant(array.type.elements[position], None) if value is None else value
        array = builder.insert_value(array, value, position)
    return array


def view(context, builder, array_type, given_type, given, data, shape, strides):
    """An array on the memory of another."""
    memory, parent = (array_field(context, builder, given_type, given, name) for name in ("meminfo", "parent"))
    return make_array(context, builder, array_type, data, shape, strides, memory, parent)
