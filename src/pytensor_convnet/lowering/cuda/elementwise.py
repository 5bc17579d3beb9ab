"""Elementwise Ops, reductions, softmax.

PyTensor's fusion is left out in this mode: single functions come here, and torch's compiler fuses them, with reductions
and changes of layout besides.
"""

import math
from collections.abc import Callable
from typing import Any

import pytensor.scalar as ps
import torch
from pytensor.graph.basic import Apply
from pytensor.tensor.elemwise import CAReduce, Elemwise
from pytensor.tensor.math import All, Argmax, Max, Min, Prod, Sum
from pytensor.tensor.math import Any as AnyTrue
from pytensor.tensor.special import LogSoftmax, Softmax

from pytensor_convnet.lowering.cuda.base import Lowering, Target, UnsupportedOp, has_kernels, lower, torch_dtype
from pytensor_convnet.lowering.cuda.formats import formatted

Function = Callable[..., Any]


def _variadic(function: Function) -> Function:
    """A function of two as one of any number."""

    def folded(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = function(first, other)
        return first

    return folded


def _second(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.broadcast_tensors(first, second)[1]


def _round_half_away(x: torch.Tensor) -> torch.Tensor:
    whole = torch.trunc(x)  # x + 0.5 may round up what is just below a half, and is not exact for large numbers
    return torch.where(torch.abs(x - whole) >= 0.5, whole + torch.sign(x), whole)


def _sign(x: torch.Tensor) -> torch.Tensor:
    """Of NaN it is NaN, and not 0 as torch has it."""
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.dtype.is_floating_point else torch.sign(x)


def _clip(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Where the limits cross, the lower one is looked at first, as PyTensor does; torch takes the upper one."""
    return torch.where(x < low, low, torch.where(x > high, high, x))


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(x, threshold=40)  # torch's own, 20, is too low for float64


def _by_nonzero(function: Function) -> Function:
    """A quotient or remainder of integers, 0 where the divisor is, as NumPy has it; a GPU would return anything."""

    def divided(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.dtype.is_floating_point:
            return function(x, y)
        zero = y == 0
        return torch.where(zero, 0, function(x, torch.where(zero, 1, y)))

    return divided


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, each half where it is exact (M. Mächler, "Accurately computing log(1-exp(-|a|))")."""
    return torch.where(x < -math.log(2), torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


def _logical_or_bitwise(logical: Function, bitwise: Function) -> Function:
    return lambda *x: _variadic(logical if x[0].dtype == torch.bool else bitwise)(*x)


# On operands of the result's dtype; by name, since not every version of PyTensor has each.
_ARITHMETIC: dict[str, Function] = {
    "Add": _variadic(torch.add),
    "Mul": _variadic(torch.mul),
    "Sub": torch.sub,
    "TrueDiv": torch.true_divide,
    "IntDiv": _by_nonzero(torch.floor_divide),
    "Mod": _by_nonzero(torch.remainder),
    "Pow": torch.pow,
    "Maximum": _variadic(torch.maximum),
    "Minimum": _variadic(torch.minimum),
    "Clip": _clip,
    "Second": _second,
    "Identity": lambda x: x,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sign": _sign,
    "Ceil": torch.ceil,
    "Floor": torch.floor,
    "Trunc": torch.trunc,
    "RoundHalfToEven": torch.round,
    "RoundHalfAwayFromZero": _round_half_away,
    "Reciprocal": torch.reciprocal,
    "Sqr": torch.square,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Exp2": torch.exp2,
    "Expm1": torch.expm1,
    "Log": torch.log,
    "Log2": torch.log2,
    "Log10": torch.log10,
    "Log1p": torch.log1p,
    "Deg2Rad": torch.deg2rad,
    "Rad2Deg": torch.rad2deg,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "ArcSin": torch.asin,
    "ArcCos": torch.acos,
    "ArcTan": torch.atan,
    "ArcTan2": torch.atan2,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Tanh": torch.tanh,
    "ArcSinh": torch.asinh,
    "ArcCosh": torch.acosh,
    "ArcTanh": torch.atanh,
    "AND": _logical_or_bitwise(torch.logical_and, torch.bitwise_and),
    "OR": _logical_or_bitwise(torch.logical_or, torch.bitwise_or),
    "XOR": _logical_or_bitwise(torch.logical_xor, torch.bitwise_xor),
    "Invert": torch.bitwise_not,
    "Sigmoid": torch.sigmoid,
    "Softplus": _softplus,
    "Log1mexp": _log1mexp,
    "Erf": torch.erf,
    "Erfc": torch.erfc,
    "Erfcx": torch.special.erfcx,
    "Erfinv": torch.erfinv,
    "GammaLn": torch.lgamma,
    "Psi": torch.digamma,
}

# On operands of the dtype in which NumPy compares them: torch compares int64 with float32 in float32.
_COMPARISONS: dict[str, Function] = {
    "LT": torch.lt,
    "GT": torch.gt,
    "LE": torch.le,
    "GE": torch.ge,
    "EQ": torch.eq,
    "NEQ": torch.ne,
}

# On operands as they are.
_OTHERS: dict[str, Function] = {
    "IsNan": torch.isnan,
    "IsInf": torch.isinf,
    "Cast": lambda x: x,
}


def _scalar_function(op: Any, node: Apply, whole: Apply) -> Function:
    """The function over tensors that applies a scalar Op to each of their elements.

    Parameters
    ----------
    op : ScalarOp
    node : Apply
        Whose types are those of the operands and the results.
    whole : Apply
        The node to name where there is no such function.
    """
    if isinstance(op, ps.Composite):
        return _composite(op, whole)
    dtype = torch_dtype(node.outputs[0])
    if isinstance(op, ps.Switch):

        def switch(condition: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
            return torch.where(condition.to(torch.bool), yes.to(dtype), no.to(dtype))

        return switch
    name = type(op).__name__
    if name in _COMPARISONS:
        compare, common = _COMPARISONS[name], getattr(torch, ps.upcast(*(x.type.dtype for x in node.inputs)))
        return lambda *operands: compare(*(operand.to(common) for operand in operands))
    if name in _OTHERS:
        function = _OTHERS[name]
        return lambda *operands: function(*operands).to(dtype)
    found = _ARITHMETIC.get(name)
    if found is None:
        found = _torchs(op, node, whole)
    arithmetic = found
    return lambda *operands: arithmetic(*(operand.to(dtype) for operand in operands)).to(dtype)


def _torchs(op: Any, node: Apply, whole: Apply) -> Function:
    """PyTensor's own conversion of a scalar Op, where torch has the function."""
    from pytensor.link.pytorch.dispatch import pytorch_funcify

    try:
        return pytorch_funcify(op, node=node)
    except (NotImplementedError, AttributeError, ImportError) as error:
        raise UnsupportedOp(whole, f"torch has no function for {op}") from error


def _composite(op: Any, whole: Apply) -> Function:
    """Several scalar Ops as one function of several results."""
    nodes = op.fgraph.toposort()
    steps = [(node, _scalar_function(node.op, node, whole)) for node in nodes]

    def composite(*operands: torch.Tensor) -> Any:
        values = dict(zip(op.fgraph.inputs, operands))

        def value(variable: Any) -> torch.Tensor:
            if variable in values:
                return values[variable]
            return torch.full((), variable.data.item(), dtype=torch_dtype(variable), device=operands[0].device)

        for node, step in steps:
            values[node.outputs[0]] = step(*(value(x) for x in node.inputs))
        results = [value(output) for output in op.fgraph.outputs]
        return results[0] if len(results) == 1 else results

    return composite


@lower.register(Elemwise)
def _lower_elemwise(op: Any, node: Apply, target: Target) -> Lowering:
    function = _scalar_function(op.scalar_op, node, node)

    def elementwise(*values: Any) -> Any:
        operands = [target.tensor(value) for value in values]
        Elemwise._check_runtime_broadcast(node, operands)
        return function(*operands)

    return Lowering(elementwise)


# ------------------------------------------------------------------------------------------- reductions


def _axes(op: Any, x: torch.Tensor) -> list[int]:
    if op.axis is None:
        return list(range(x.ndim))
    axes = (op.axis,) if isinstance(op.axis, int) else op.axis  # softmax has one, in PyTensor 3.0
    return [axis % x.ndim for axis in axes]


@lower.register(Sum)
def _lower_sum(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def total(x: Any) -> torch.Tensor:
        x = target.tensor(x)
        axes = _axes(op, x)
        if sorted(axes) == [0, 2, 3] and x.ndim == 4 and x.permute(1, 2, 3, 0).is_contiguous():
            return _sum_of_each_channel(x, dtype)
        return torch.sum(x, dim=axes, dtype=dtype) if axes else x.to(dtype)

    return Lowering(total, deferred=_deferred_sum(op, node, target, total))


MOST_SUMMED_BESIDE = 16 << 20
"""Bytes of maps, about half of a GPU's second-level cache, whose sums are computed beside other kernels."""


def _deferred_sum(op: Any, node: Apply, target: Target, total: Function) -> Callable[..., Any] | None:
    """The gradient of biases as a kernel call: beside those of images and filters it costs next to nothing.

    Of maps so large that reading them is what takes time it is left to torch's compiler, which reads them no slower.
    """
    dtype = torch_dtype(node.outputs[0])
    x_type = node.inputs[0].type
    per_channel = x_type.ndim == 4 and sorted(op.axis or ()) == [0, 2, 3]
    if not (per_channel and x_type.dtype == "float32" and dtype == torch.float32 and has_kernels(target)):
        return None
    from pytensor_convnet.lowering.cuda.operators import KernelCall

    def deferred_call(x: Any) -> KernelCall | torch.Tensor:
        x = formatted(target.tensor(x))
        if x.numel() * x.element_size() > MOST_SUMMED_BESIDE:
            return total(x)
        return KernelCall("sum_over_pixels", [x], (), [((x.shape[1],), torch.float32, "")])

    return deferred_call


def _sum_of_each_channel(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The sum over batch, rows and columns of batch-last images, in two steps along memory.

    A compiler that is told only of the axes reads such memory in an order that is several times slower.
    """
    line = images.permute(1, 2, 3, 0).reshape(images.shape[1], -1)
    length = line.shape[1]
    parts = next((count for count in (128, 64, 32, 16, 8, 4, 2) if length % count == 0 and length // count >= 256), 1)
    return line.reshape(line.shape[0], parts, length // parts).sum(dim=2, dtype=dtype).sum(dim=1)


@lower.register(Prod)
def _lower_prod(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def product(x: Any) -> torch.Tensor:
        x = target.tensor(x, dtype)
        for axis in sorted(_axes(op, x), reverse=True):
            x = torch.prod(x, dim=axis, dtype=dtype)
        return x

    return Lowering(product)


def _lower_reduction(op_type: type, function: Function) -> None:
    @lower.register(op_type)
    def _lower(op: Any, node: Apply, target: Target) -> Lowering:
        dtype = torch_dtype(node.outputs[0])

        def reduction(x: Any) -> torch.Tensor:
            x = target.tensor(x)
            axes = _axes(op, x)
            return (function(x, dim=axes) if axes else x).to(dtype)

        return Lowering(reduction)


_lower_reduction(Max, torch.amax)
_lower_reduction(Min, torch.amin)
_lower_reduction(All, torch.all)
_lower_reduction(AnyTrue, torch.any)


@lower.register(CAReduce)
def _lower_other_reduction(op: Any, node: Apply, target: Target) -> Lowering:
    raise UnsupportedOp(node, f"no reduction by {op.scalar_op} is known")


@lower.register(Argmax)
def _lower_argmax(op: Any, node: Apply, target: Target) -> Lowering:
    def argmax(x: Any, *_: Any) -> torch.Tensor:
        x = target.tensor(x)
        axes = _axes(op, x)
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        merged = x.permute(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1)
        return torch.argmax(merged, dim=-1)

    return Lowering(argmax)


def _lower_softmax(op_type: type, function: Function) -> None:
    @lower.register(op_type)
    def _lower(op: Any, node: Apply, target: Target) -> Lowering:
        dtype = torch_dtype(node.outputs[0])

        def softmax(x: Any) -> torch.Tensor:
            x = target.tensor(x, dtype)
            axes = _axes(op, x)
            if len(axes) == 1:
                return function(x, dim=axes[0])
            last = list(range(-len(axes), 0))
            moved = torch.movedim(x, axes, last)
            flat = function(moved.reshape(*moved.shape[: -len(axes)], -1), dim=-1)
            return torch.movedim(flat.reshape(moved.shape), last, axes)

        return Lowering(softmax)


_lower_softmax(Softmax, torch.softmax)
_lower_softmax(LogSoftmax, torch.log_softmax)
