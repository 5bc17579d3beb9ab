"""Structures are taken apart while code is written."""

import pytest
from llvmlite import ir

from pytensor_convnet.kernels.cpu.llvm import int64
from pytensor_convnet.kernels.cpu.structures import Builder, drop_unused

_PAIR = ir.LiteralStructType([int64, ir.LiteralStructType([int64, int64])])


@pytest.fixture
def builder():
    function = ir.Function(ir.Module(), ir.FunctionType(int64, [int64, _PAIR]), "function")
    return Builder(function.append_basic_block())


def _opcodes(builder):
    return [instruction.opname for instruction in builder.block.instructions]


@pytest.mark.parametrize("place", [0, (1, 0), (1, 1)])
def test_a_field_is_what_was_inserted(builder, place):
    number, pair = builder.function.args
    put = builder.insert_value(pair, number, place)
    assert builder.extract_value(put, place) is number
    assert _opcodes(builder) == ["insertvalue"]


def test_a_field_beside_what_was_inserted_is_the_old_one(builder):
    number, pair = builder.function.args
    found = builder.extract_value(builder.insert_value(pair, number, (1, 0)), (1, 1))
    assert found.operands == [pair]
    assert tuple(found.indices) == (1, 1)


def test_a_structure_that_was_inserted_is_looked_into(builder):
    number, pair = builder.function.args
    inner = builder.insert_value(ir.Constant(_PAIR.elements[1], ir.Undefined), number, 1)
    assert builder.extract_value(builder.insert_value(pair, inner, 1), (1, 1)) is number


def test_a_structure_of_which_a_field_was_inserted_is_extracted_with_it(builder):
    number, pair = builder.function.args
    put = builder.insert_value(pair, number, (1, 0))
    assert builder.extract_value(put, 1).operands == [put]


def test_only_what_is_used_is_written(builder):
    number, pair = builder.function.args
    builder.insert_value(builder.insert_value(pair, number, 0), number, (1, 1))
    place = builder.alloca(int64)
    builder.load(place)
    builder.ret(builder.extract_value(pair, 0))
    drop_unused(builder.function)
    assert _opcodes(builder) == ["alloca", "extractvalue", "ret"]
