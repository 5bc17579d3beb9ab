"""Python to LLVM in one pass, for the parts of kernels.

Numba compiles any Python: it analyses bytecode, solves for the types of all variables at once, and runs a dozen passes
more, a tenth of a second for a page. Parts are plainer: a variable has the type of its first value. So their source is
read once, from top to bottom, and each expression becomes instructions as it is met, in a fifth of the time.

A part that is translated holds integers, floats, booleans, tuples (named or not), and arrays of numbers; arithmetic and
comparisons; ``if``, ``while``, and ``for`` over a range, over numbers in an array or over a tuple of constants;
``raise``; and calls of parts, of intrinsics, and of what `Expressions.visit_Call` knows. Where a test is a constant, as
``array.itemsize == 4`` is, only what follows from it is translated. An index stays inside and counts from the front,
unless it is a negative constant; for slices see `Instructions.view`.

Memory that a call returns is kept until the same call is made again, or until its caller returns.
"""

import ast
import builtins
import functools
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core.callconv import RETCODE_OK

from pytensor_convnet.kernels.cpu.expressions import Expressions, are_an_element
from pytensor_convnet.kernels.cpu.instructions import Instructions, Place, Value
from pytensor_convnet.kernels.cpu.llvm import int1, int64, new_place

sources: dict[str, bytes] = {}
"""Files as they were when they were imported; others are read when they are wanted."""


class _Loop(NamedTuple):
    """Where ``continue`` and ``break`` go."""

    following: ir.Block
    after: ir.Block


@functools.cache
def _definitions(path):
    """The functions that a file defines, by the lines where they, or their decorators, begin."""
    nodes = ast.walk(ast.parse(sources.get(path) or Path(path).read_bytes()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return {min([f.lineno, *(decorator.lineno for decorator in f.decorator_list)]): f for f in functions}


class Translator(Expressions):
    """The translation of a function, to where ``builder`` is.

    ``returned`` is the type of what the function returns, which may be known only when it has been translated.
    """

    def __init__(self, typing_context, context, builder, library, function, returned):
        code = function.__code__
        self.tree = _definitions(code.co_filename)[code.co_firstlineno]
        cells = {name: cell.cell_contents for name, cell in zip(code.co_freevars, function.__closure__ or ())}
        scopes: list[dict] = [{}, cells, function.__globals__, vars(builtins)]
        super().__init__(Instructions(typing_context, context, builder), library, code.co_filename, scopes)
        self.name, self.returned = function.__name__, returned
        arguments = [argument.arg for argument in self.tree.args.args]
        stored = [n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        self.changing = {name for name, times in Counter(arguments + stored).items() if times > 1}
        self.variables, self.loops, self.exit = scopes[0], [], builder.append_basic_block("exit")

    def translate(self, arguments):
        """Write the whole function, whose arguments are `Value`."""
        for argument, value in zip(self.tree.args.args, arguments):
            self._set(argument.arg, value)
        self._block(self.tree.body)
        if not self.builder.block.is_terminated:
            if self.returned in (None, types.none):
                self._return(Value(types.none, self.do.context.get_dummy_value()))
            else:
                self.builder.unreachable()
        self._leave()

    def _block(self, statements):
        for statement in statements:
            if not self.builder.block.is_terminated:
                self.visit(statement)

    def _set(self, name, thing):
        """Give a variable a value."""
        if name not in self.changing:
            self.variables[name] = thing
            return
        place = self.variables.get(name)
        if self.loops and isinstance(thing, Value) and self.holds_memory(thing.type):
            raise TypeError("memory that a loop takes is left to its next round")
        if not isinstance(place, Place):
            place = self.variables[name] = self.do.keep(self.do.typed(thing).type)
        self.do.put(thing, place)

    def _assign(self, target, thing):
        if isinstance(target, ast.Name):
            self._set(target.id, thing)
        elif isinstance(target, ast.Tuple):
            for part, item in zip(target.elts, self.do.items(thing), strict=True):
                self._assign(part, item)
        else:
            array, indices = self.visit(target.value), self.indices(target)
            if are_an_element(array, indices):
                self.do.store(array, indices, thing)
            else:
                self.do.fill(self.do.view(array, indices), thing)

    def visit_Assign(self, node):
        # Several values become no tuple on their way to as many names.
        several = isinstance(node.value, ast.Tuple) and all(isinstance(target, ast.Tuple) for target in node.targets)
        thing = [self.visit(item) for item in node.value.elts] if several else self.visit(node.value)
        for target in node.targets:
            self._assign(target, thing)

    def visit_AugAssign(self, node):
        target, name = node.target, type(node.op).__name__
        if isinstance(target, ast.Name):
            self._set(target.id, self.do.operate(name, self.visit_Name(target), self.visit(node.value)))
            return
        array, indices = self.visit(target.value), self.indices(target)
        added = self.visit(node.value)
        self.do.store(array, indices, self.do.operate(name, self.do.load(array, indices), added))

    def visit_Expr(self, node):
        if not isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def _return(self, value):
        if self.returned is None:
            self.returned = value.type
        # Only now is it known what the first argument of the function points to.
        self.builder.function.args[0].type = self.do.context.get_return_type(self.returned).as_pointer()
        result = self.do.cast(value, self.returned)
        if self.holds_memory(self.returned):
            self.do.context.nrt.incref(self.builder, self.returned, result)
        result = self.do.context.get_return_value(self.builder, self.returned, result)
        self.builder.store(result, self.builder.function.args[0])
        self.builder.branch(self.exit)

    def _leave(self):
        """Write the end of the function."""
        self.builder.position_at_end(self.exit)
        for place in self.owned:
            self.do.context.nrt.decref(self.builder, place.type, self.builder.load(place.kept))
        self.builder.ret(RETCODE_OK)

    def visit_Return(self, node):
        self._return(self.do.typed(self.visit(node.value)))

    def visit_If(self, node):
        self.branches(node.test, lambda: self._block(node.body), lambda: self._block(node.orelse))

    def _loop(self, condition, body, step=lambda: None):
        """``while condition(): body(); step()``."""
        head, inside, following, after = (
            self.builder.append_basic_block(name) for name in ("head", "inside", "following", "after")
        )
        self.builder.branch(head)
        self.builder.position_at_end(head)
        truth = self.do.truth(condition())
        self.builder.cbranch(int1(truth) if isinstance(truth, bool) else truth, inside, after)
        self.builder.position_at_end(inside)
        self.loops.append(_Loop(following, after))
        body()
        self.loops.pop()
        if not self.builder.block.is_terminated:
            self.builder.branch(following)
        self.builder.position_at_end(following)
        step()
        self.builder.branch(head)
        self.builder.position_at_end(after)

    def visit_While(self, node):
        self._loop(lambda: self.visit(node.test), lambda: self._block(node.body))

    def visit_For(self, node):
        things = None if isinstance(node.iter, ast.Call) else self.visit(node.iter)
        if isinstance(things, tuple):
            self._repeat(node, things)
            return
        if things is None and self.visit(node.iter.func) is not range:
            raise TypeError("loops are over ranges, arrays, and constant tuples")
        bounds = [self.visit(bound) for bound in node.iter.args] if things is None else [self.do.length(things)]
        start, stop, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        backwards = not isinstance(step, Value) and step < 0
        counter = new_place(self.builder, int64)
        self.builder.store(self.do.integer(start), counter)

        def inside():
            return self.do.compare("Gt" if backwards else "Lt", self._load(counter), stop)

        def body():
            index = self._load(counter)
            self._assign(node.target, index if things is None else self.do.load(things, [index]))
            self._block(node.body)

        def count():
            following = self.builder.add(self._load(counter).value, self.do.integer(step), flags=["nsw"])
            self.builder.store(following, counter)

        self._loop(inside, body, count)

    def _repeat(self, node, things):
        """The body of a loop, once for each of some constants."""
        self.loops.append(None)
        for item in things:
            if not self.builder.block.is_terminated:
                self._assign(node.target, item)
                self._block(node.body)
        self.loops.pop()

    def _load(self, counter):
        return Value(types.intp, self.builder.load(counter))

    def visit_Continue(self, node):
        self.builder.branch(self._innermost().following)

    def visit_Break(self, node):
        self.builder.branch(self._innermost().after)

    def _innermost(self):
        if self.loops[-1] is None:
            raise TypeError("a loop over constants is neither left nor continued")
        return self.loops[-1]

    def visit_Raise(self, node):
        """An exception of a class and arguments, of which some are constants. (As Numba's, it drops no references.)"""
        class_, things = self.visit(node.exc.func), self.all(node.exc.args)
        convention, name = self.do.context.call_conv, self.name
        if any(isinstance(thing, Value) for thing in things):
            kinds = tuple(thing.type if isinstance(thing, Value) else None for thing in things)
            things = tuple(thing.value if isinstance(thing, Value) else thing for thing in things)
            convention.return_dynamic_user_exc(self.builder, class_, things, kinds, func_name=name)
        else:
            convention.return_user_exc(self.builder, class_, tuple(things), func_name=name)
