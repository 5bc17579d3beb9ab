"""Loops over vectors, written in Python and emitted as LLVM functions.

Numba leaves it to LLVM to find vectors in loops, which it does where rows are long and steps are one, and it takes a
second to translate a page of Python. So the inner loops of pooling are written with the values below: they look like
numbers, and every operation on one appends an instruction to a function of the module that Numba is building. A
function is defined once a module, however often it is called.

A *vector* fills one register, `VECTOR_BYTES`, with the *lanes* of a float type, or holds as many lanes of another
type. Addresses are integers, in bytes. What code of this kind means is exactly what it says: nothing is checked.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pytensor_convnet.kernels.cpu import llvm
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, bits, int32, int64, is_float, item_bytes


class Value:
    """A number or a vector of a function that is being emitted."""

    def __init__(self, emitter, value):
        self.emitter, self.value, self.type = emitter, value, value.type

    def _with(self, other, of_integers, of_floats=None, swap=False):
        type_ = other.type if isinstance(other, Value) and isinstance(other.type, ir.VectorType) else self.type
        first, second = (self.emitter.constant(type_, value).value for value in (self, other))
        operands = (second, first) if swap else (first, second)
        method = of_floats if of_floats and is_float(type_) else of_integers
        return Value(self.emitter, getattr(self.emitter.builder, method)(*operands))

    def _compared(self, sign, other):
        other, builder = self.emitter.constant(self.type, other), self.emitter.builder
        compare = builder.fcmp_ordered if is_float(self.type) else builder.icmp_signed
        return Value(self.emitter, compare(sign, self.value, other.value))

    def __add__(self, other):
        return self._with(other, "add", "fadd")

    def __sub__(self, other):
        return self._with(other, "sub", "fsub")

    def __rsub__(self, other):
        return self._with(other, "sub", "fsub", swap=True)

    def __mul__(self, other):
        return self._with(other, "mul", "fmul")

    def __truediv__(self, other):
        return self._with(other, "sdiv", "fdiv")

    def __floordiv__(self, other):
        return self._with(other, "sdiv")

    def __and__(self, other):
        return self._with(other, "and_")

    def __or__(self, other):
        return self._with(other, "or_")

    def __lshift__(self, other):
        return self._with(other, "shl")

    def __rshift__(self, other):
        """Zeros follow from above, whatever the sign."""
        return self._with(other, "lshr")

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other):
        return self._compared("<", other)

    def __le__(self, other):
        return self._compared("<=", other)

    def __gt__(self, other):
        return self._compared(">", other)

    def __ge__(self, other):
        return self._compared(">=", other)

    def equals(self, other):
        return self._compared("==", other)

    def exceeds(self, other):
        """``self > other`` as unsigned integers."""
        other = self.emitter.constant(self.type, other)
        return Value(self.emitter, self.emitter.builder.icmp_unsigned(">", self.value, other.value))

    def beats(self, other):
        """``self > other``, or one of them is NaN."""
        return Value(self.emitter, self.emitter.builder.fcmp_unordered(">", self.value, other.value))

    def is_number(self):
        """Whether it is not NaN."""
        return Value(self.emitter, self.emitter.builder.fcmp_ordered("ord", self.value, self.value))

    def or_nan(self, other):
        """Whether one of them is NaN."""
        return Value(self.emitter, self.emitter.builder.fcmp_unordered("uno", self.value, other.value))

    def to(self, type_):
        """An integer, or a vector of them, as one of another width: cut, or extended by its sign."""
        old, new = bits(getattr(self.type, "element", self.type)), bits(getattr(type_, "element", type_))
        cast = self.emitter.builder.trunc if new < old else self.emitter.builder.sext
        return Value(self.emitter, cast(self.value, type_)) if new != old else self

    def widened(self):
        """A vector of floats as one of numbers of 64 bits."""
        wide = ir.VectorType(ir.DoubleType(), self.type.count)
        return Value(self.emitter, self.emitter.builder.fpext(self.value, wide)) if self.type != wide else self

    def unsigned(self):
        """An unsigned integer as one of 64 bits."""
        return Value(self.emitter, self.emitter.builder.zext(self.value, int64)) if bits(self.type) < 64 else self

    def __invert__(self):
        return Value(self.emitter, self.emitter.builder.not_(self.value))

    def sqrt(self):
        """The square root; NaN of what is negative."""
        builder, name = self.emitter.builder, f"llvm.sqrt.{llvm.vector_suffix(self.type)}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.type, [self.type]), name)
        return Value(self.emitter, builder.call(function, [self.value]))

    def first_set(self):
        """The first lane in which a mask is set; the number of lanes if there is none."""
        builder = self.emitter.builder
        bits = builder.zext(builder.bitcast(self.value, ir.IntType(self.type.count)), int64)
        beyond = builder.or_(bits, int64(1 << self.type.count))
        return Value(self.emitter, builder.cttz(beyond, ir.IntType(1)(0)))


class Variable:
    """A place for a `Value` that changes in a loop."""

    def __init__(self, emitter, value):
        self.emitter = emitter
        self._place = llvm.new_place(emitter.builder, value.type)
        self.set(value)

    def get(self):
        return Value(self.emitter, self.emitter.builder.load(self._place))

    def set(self, value):
        self.emitter.builder.store(value.value, self._place)


class Emitter:
    """The function that is being emitted: control flow, memory, and vectors."""

    def __init__(self, builder):
        self.builder = builder

    def constant(self, type_, number):
        """``number`` as a `Value` of a type, in every lane of a vector; a scalar `Value` spreads to all lanes."""
        if isinstance(number, Value):
            if number.type == type_ or not isinstance(type_, ir.VectorType):
                return number
            return self.splat(type_, number)
        if isinstance(type_, ir.VectorType):
            return Value(self, ir.Constant(type_, [type_.element(number)] * type_.count))
        return Value(self, type_(number))

    def integer(self, number):
        return self.constant(int64, number)

    def variable(self, value):
        return Variable(self, value)

    @contextmanager
    def range(self, start, stop, step=1) -> Iterator[Value]:
        """A loop over an integer, as Python's ``range``; the step is positive."""
        builder = self.builder
        counter = self.variable(self.integer(start))
        head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = counter.get()
        builder.cbranch((index < stop).value, body, after)
        builder.position_at_end(body)
        yield index
        counter.set(index + step)
        builder.branch(head)
        builder.position_at_end(after)

    def fold(self, start, stop, step, values, body):
        """What ``values = body(index, values)`` leaves after every index of a range: values that are never in memory,
        as those of a `variable` are until LLVM finds that they need not be."""
        builder = self.builder
        before, (head, loop, after) = builder.block, map(builder.append_basic_block, ("head", "loop", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        carried = [builder.phi(value.type) for value in (self.integer(start), *values)]
        index, *sums = (Value(self, phi) for phi in carried)
        builder.cbranch((index < stop).value, loop, after)
        builder.position_at_end(loop)
        following = [index + step, *body(index, sums)]
        for phi, first, later in zip(carried, (self.integer(start), *values), following):
            phi.add_incoming(first.value, before)
            phi.add_incoming(later.value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return sums

    @contextmanager
    def when(self, condition) -> Iterator[None]:
        with self.builder.if_then(condition.value):
            yield

    def choose(self, condition, then: Callable, otherwise: Callable) -> None:
        """Call ``then`` to emit what happens under a condition, and ``otherwise`` for the rest."""
        with self.builder.if_else(condition.value) as (yes, no):
            with yes:
                then()
            with no:
                otherwise()

    def select(self, condition, a, b):
        return Value(self, self.builder.select(condition.value, a.value, self.constant(a.type, b).value))

    def maximum(self, a, b):
        return self.select(a > b, a, b)

    def minimum(self, a, b):
        return self.select(a < b, a, b)

    # -------------------------------------------------------------------------------------- memory

    # An ``offset`` is a number of bytes in the instruction. What is added to an address instead, LLVM adds to another
    # constant of the loop first, which takes a register for each sum.

    def _pointer(self, address, type_, offset=0):
        if offset == 0:
            return self.builder.inttoptr(address.value, type_.as_pointer())
        start = self.builder.inttoptr(address.value, ir.IntType(8).as_pointer())
        return self.builder.bitcast(self.builder.gep(start, [int64(offset)]), type_.as_pointer())

    def load(self, type_, address, offset=0):
        return Value(self, self.builder.load(self._pointer(address, type_, offset), align=item_bytes(type_)))

    def store(self, address, value, offset=0):
        self.builder.store(value.value, self._pointer(address, value.type, offset), align=item_bytes(value.type))

    def stream(self, address, value):
        """Write a whole vector, where one begins, past the caches."""
        llvm.stream_vector(self.builder, value.value, self._pointer(address, value.type))

    def fetch(self, address, offset=0):
        """Start to read the cache line of ``address``, which may be anywhere, without waiting for it."""
        llvm.fetch(self.builder, self._pointer(address, ir.IntType(8), offset), 1)

    def _first(self, count, lanes):
        """The mask of the first ``count`` lanes."""
        bound = self.minimum(count, self.integer(lanes)).to(int32)
        return self.lane_numbers(ir.VectorType(int32, lanes)) < bound

    def load_where(self, address, mask, others, offset=0):
        """The numbers at ``address`` in the lanes of a mask, those of ``others`` in the others; no more are read."""
        vector = others.type
        arguments = [self._pointer(address, vector, offset), int32(item_bytes(vector)), mask.value, others.value]
        return Value(self, self.builder.call(llvm.masked_access(self.builder.module, "load", vector), arguments))

    def load_first(self, address, count, others):
        """The ``count`` numbers at ``address`` in the first lanes, those of ``others`` in the others.

        Nothing beyond is read; ``count`` may be any number.
        """
        return self.load_where(address, self._first(count, others.type.count), others)

    def store_first(self, address, count, values, offset=0):
        """Write the first ``count`` lanes to ``address``, nothing beyond; ``count`` may be any number."""
        vector = values.type
        mask, align = self._first(count, vector.count), int32(item_bytes(vector))
        arguments = [values.value, self._pointer(address, vector, offset), align, mask.value]
        self.builder.call(llvm.masked_access(self.builder.module, "store", vector), arguments)

    # ------------------------------------------------------------------------------------- vectors

    def splat(self, vector, number):
        """A vector of one number; an integer is cut, or extended, to the vector's type."""
        number = number if is_float(vector) else number.to(vector.element)
        return Value(self, llvm.splat(self.builder, number.value, vector))

    def multiply_add(self, a, b, c):
        """``a * b + c`` of vectors, rounded once where the host has such an instruction."""
        name = f"llvm.fmuladd.{llvm.vector_suffix(a.type)}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
        return Value(self, self.builder.call(function, [a.value, b.value, c.value]))

    def numbers(self, vector, numbers):
        """A vector of these numbers."""
        return Value(self, ir.Constant(vector, [vector.element(number) for number in numbers]))

    def lane_numbers(self, vector):
        return self.numbers(vector, range(vector.count))

    def shuffle(self, a, b, places):
        """The lanes at ``places`` of two vectors, laid end to end."""
        return Value(self, llvm.shuffle(self.builder, a.value, b.value, places))

    def transpose(self, rows):
        """A square of vectors, transposed."""
        return [Value(self, row) for row in llvm.transpose(self.builder, [row.value for row in rows])]


# ------------------------------------------------------------------------------------ called from kernels


def number_type(dtype):
    """LLVM's type of the numbers of a NumPy dtype (as Numba's type)."""
    if isinstance(dtype, types.Float):
        return {32: ir.FloatType(), 64: ir.DoubleType()}[dtype.bitwidth]
    return ir.IntType(dtype.bitwidth)


def lanes_of(dtype) -> int:
    """How many floats of a dtype a vector has."""
    return VECTOR_BYTES * 8 // dtype.bitwidth


def _define(module, name, count, body, vectors, returns):
    """The function ``name`` of ``count`` integers in a module, which ``body`` emits unless it was defined before."""
    function, builder = llvm.define_function(module, name, [int64] * count, int64 if returns else None)
    if builder is None:
        return function
    # Loops as written, for LLVM would unroll them all by eight.
    function.attributes.add("optsize")
    emitter = Emitter(builder)
    result = body(emitter, *vectors, *(Value(emitter, argument) for argument in function.args))
    if returns:
        builder.ret(result.value)
    else:
        builder.ret_void()
    return function


def emitted(arrays: int, returns: bool = False):
    """Decorator of what emits a function, ``body(emitter, *vector types, *integers)``.

    Kernels call it as ``(*arrays, *integers)``; the vectors have the lanes of a register of the first array's dtype
    and the dtypes of the arrays, of which nothing else is used. It returns an integer, or nothing.
    """

    def decorate(body):
        @intrinsic
        def function(typing_context, *arguments):
            dtypes = [array.dtype for array in arguments[:arrays]]
            lanes = lanes_of(dtypes[0])
            vectors = [ir.VectorType(number_type(dtype), lanes) for dtype in dtypes]
            name = ".".join(["pytensor_convnet", body.__module__, body.__name__, *map(str, dtypes)])

            def codegen(context, builder, signature, values):
                values = cgutils.unpack_tuple(builder, values[0])[arrays:]
                values = [context.cast(builder, v, t, types.intp) for v, t in zip(values, arguments[arrays:])]
                callee = _define(builder.module, name, len(values), body, vectors, returns)
                result = builder.call(callee, values)
                return result if returns else context.get_dummy_value()

            return (types.intp if returns else types.void)(types.Tuple(arguments)), codegen

        return function

    return decorate


@intrinsic
def address_of(typing_context, array):
    """Where ``array`` begins; `keep_alive` keeps it there."""

    def codegen(context, builder, signature, arguments):
        return builder.ptrtoint(llvm.array_data(context, builder, array, arguments[0]), int64)

    return types.intp(array), codegen


@intrinsic
def keep_alive(typing_context, array):
    """Nothing; but an array of which only the address was used lives on to here."""

    def codegen(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.void(array), codegen
