"""Expressions of Python as instructions: the half of `translation` that gives values."""

import ast
import inspect

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.callconv import RETCODE_OK
from numba.core.dispatcher import Dispatcher
from numba.core.errors import UnsupportedError
from numba.core.ir import Loc

from pytensor_convnet.kernels.cpu.instructions import Place, Value
from pytensor_convnet.kernels.cpu.llvm import int1, new_place

formulas: dict = {}
"""Functions of Python that kernels may call, and the parts that they are there."""


def are_an_element(array, indices):
    """Whether there is an index, and no slice, for each axis."""
    return len(indices) == array.type.ndim and not any(isinstance(index, slice) for index in indices)


class Expressions(ast.NodeVisitor):
    """Visiting an expression returns a `Value` or, for what is known by now, a Python object.

    ``do`` are the `Instructions` that it takes, ``scopes`` the names that it may hold, the nearest first, and
    ``library`` is Numba's of the function that is translated, from the file ``source``.
    """

    def __init__(self, do, library, source, scopes):
        self.do, self.builder, self.library, self.source, self.scopes = do, do.builder, library, source, scopes
        self.owned: list[Place] = []

    def visit(self, node):
        try:
            return super().visit(node)
        except UnsupportedError:
            raise
        except Exception as error:
            place = Loc(self.source, getattr(node, "lineno", 0))
            raise UnsupportedError(f"{type(error).__name__}: {error}", place) from error

    def generic_visit(self, node):
        raise TypeError(f"no translation of {type(node).__name__}")

    def holds_memory(self, type_):
        """Whether references to values of a type are counted."""
        return self.do.context.enable_nrt and self.do.context.data_model_manager[type_].contains_nrt_meminfo()

    def _own(self, value):
        """Drop the reference to a value that a call has returned when the call is made again, or at the end."""
        if self.holds_memory(value.type):
            place = cgutils.alloca_once(self.builder, value.value.type)  # which is null at first
            self.do.context.nrt.decref(self.builder, value.type, self.builder.load(place))
            self.builder.store(value.value, place)
            self.owned.append(Place(value.type, place))
        return value

    def branches(self, test, then, otherwise):
        """``then()`` or ``otherwise()``, of which only one is translated if the test is a constant."""
        truth = self.do.truth(self.visit(test))
        if isinstance(truth, bool):
            then() if truth else otherwise()
            return
        yes, no, after = (self.builder.append_basic_block(name) for name in ("then", "else", "after"))
        self.builder.cbranch(truth, yes, no)
        reached = False
        for block, body in ((yes, then), (no, otherwise)):
            self.builder.position_at_end(block)
            body()
            if not self.builder.block.is_terminated:
                self.builder.branch(after)
                reached = True
        self.builder.position_at_end(after)
        if not reached:
            self.builder.unreachable()

    def visit_Constant(self, node):
        return node.value

    def visit_Name(self, node):
        for scope in self.scopes:
            if node.id in scope:
                found = scope[node.id]
                return self.do.get(found) if isinstance(found, Place) else found
        raise NameError(f"{node.id} has no value here")

    def all(self, nodes):
        """The values of expressions, of which some may be tuples with a star."""
        things: list = []
        for node in nodes:
            things += self.do.items(self.visit(node.value)) if isinstance(node, ast.Starred) else [self.visit(node)]
        return things

    def visit_Tuple(self, node):
        items = tuple(self.all(node.elts))
        return self.do.make_tuple(items) if any(isinstance(item, Value) for item in items) else items

    def visit_BinOp(self, node):
        return self.do.operate(type(node.op).__name__, self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node):
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.USub):
            return self.do.negate(operand)
        if not isinstance(node.op, ast.Not):
            raise TypeError("the only signs are - and not")
        truth = self.do.truth(operand)
        return not truth if isinstance(truth, bool) else Value(types.boolean, self.builder.not_(truth))

    def visit_Compare(self, node):
        things = [self.visit(side) for side in (node.left, *node.comparators)]
        total = True
        for name, a, b in zip(node.ops, things, things[1:]):
            holds = self.do.compare(type(name).__name__, a, b)
            total = holds if total is True else self.do.operate("BitAnd", total, holds)
        return total

    def visit_BoolOp(self, node):
        """Operands after the one that decides are not looked at."""
        decisive, place, after = isinstance(node.op, ast.Or), None, None
        for operand in node.values:
            truth = self.do.truth(self.visit(operand))
            last = operand is node.values[-1]
            if isinstance(truth, bool) and place is None:
                if truth == decisive or last:
                    return truth
                continue
            if place is None:
                place = new_place(self.builder, int1)
                after = self.builder.append_basic_block("decided")
            truth = int1(truth) if isinstance(truth, bool) else truth
            self.builder.store(truth, place)
            following = after if last else self.builder.append_basic_block("undecided")
            self.builder.cbranch(truth, *((after, following) if decisive else (following, after)))
            self.builder.position_at_end(following)
        return Value(types.boolean, self.builder.load(place))

    def visit_IfExp(self, node):
        kept: list[Place] = []

        def keep(branch):
            thing = self.visit(branch)
            if not kept:
                type_ = self.do.typed(thing).type
                if isinstance(type_, types.Array) and type_.ndim > 1:
                    type_ = type_.copy(layout="A")  # The other branch may be a view.
                kept.append(self.do.keep(type_))
            self.do.put(thing, kept[0])

        self.branches(node.test, lambda: keep(node.body), lambda: keep(node.orelse))
        return self.do.get(kept[0])

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Attribute) and node.value.attr == "ctypes" and node.attr == "data":
            return self.do.address(self.visit(node.value.value))
        return self.do.attribute(self.visit(node.value), node.attr)

    def visit_Slice(self, node):
        return slice(*(bound and self.visit(bound) for bound in (node.lower, node.upper, node.step)))

    def indices(self, node):
        nodes = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [self.visit(index) for index in nodes]

    def visit_Subscript(self, node):
        thing = self.visit(node.value)
        if not (isinstance(thing, Value) and isinstance(thing.type, types.Array)):
            return self.do.item(thing, self.visit(node.slice))
        indices = self.indices(node)
        return self.do.load(thing, indices) if are_an_element(thing, indices) else self.do.view(thing, indices)

    def visit_Call(self, node):
        function, things = self.visit(node.func), self.all(node.args)
        if function in (min, max):
            things = self.do.items(*things) if len(things) == 1 else things
            return self.do.extreme("Lt" if function is min else "Gt", things)
        if function is abs:
            return self.do.extreme("Gt", [*things, self.do.negate(*things)])
        if function is divmod:
            return self.do.make_tuple(self.do.divmod(*things))
        if function in (int, np.int64):
            return Value(types.intp, self.do.integer(*things))
        if function is bool:
            truth = self.do.truth(*things)
            return truth if isinstance(truth, bool) else Value(types.boolean, truth)
        if isinstance(function, type) and issubclass(function, tuple):
            return self.do.make_tuple(things, function)
        values = [self.do.typed(thing) for thing in things]
        return self._call_intrinsic(function, values) if hasattr(function, "_defn") else self._call(function, values)

    def _call_intrinsic(self, function, values):
        define = function._defn
        form, emit = define(self.do.typing_context, *(value.type for value in values))
        if define.__code__.co_flags & inspect.CO_VARARGS:
            # Numba hands over those that the definition does not name as a tuple.
            named = define.__code__.co_argcount - 1
            values[named:] = [self.do.make_tuple(values[named:])]
        arguments = [self.do.cast(value, type_) for value, type_ in zip(values, form.args, strict=True)]
        return self._own(Value(form.return_type, emit(self.do.context, self.builder, form, arguments)))

    def _call(self, function, values):
        """A call of a part; what it raises is raised on."""
        function = formulas.get(function, function)
        if not isinstance(function, Dispatcher):
            raise TypeError(f"{function} is no part")
        context, arguments = self.do.context, tuple(value.type for value in values)
        if arguments not in function.overloads:
            # As ``function.compile`` does, which has time taken at every step.
            function.add_overload(function._compiler.compile(arguments, None))
        compiled = function.overloads[arguments]
        self.library.add_linking_library(compiled.library)
        returned, name = compiled.fndesc.restype, compiled.fndesc.llvm_func_name
        callee = cgutils.get_or_insert_function(
            self.builder.module, context.call_conv.get_function_type(returned, arguments), name
        )
        # By Numba's convention; but what a part raises it leaves where its caller would.
        result, raised = new_place(self.builder, callee.args[0].type.pointee), self.builder.function.args[1]
        numbers = context.get_arg_packer(arguments).as_arguments(self.builder, [value.value for value in values])
        code = self.builder.call(callee, [result, raised, *numbers])
        if function.targetoptions.get("_nrt", True):  # Leaf parts raise nothing.
            with cgutils.if_unlikely(self.builder, self.builder.icmp_signed("!=", code, RETCODE_OK)):
                self.builder.ret(code)
        result = context.get_returned_value(self.builder, returned, self.builder.load(result))
        return self._own(Value(returned, result))
