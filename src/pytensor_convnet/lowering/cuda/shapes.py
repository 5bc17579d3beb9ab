"""Making, viewing and joining tensors; what has to do with shapes."""

from typing import Any

import numpy as np
import torch
from pytensor.compile.ops import DeepCopyOp, ViewOp
from pytensor.graph.basic import Apply
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import (
    Alloc,
    AllocEmpty,
    ARange,
    ExtractDiag,
    Eye,
    Join,
    MakeVector,
    ScalarFromTensor,
    Split,
    TensorFromScalar,
)
from pytensor.tensor.elemwise import DimShuffle
from pytensor.tensor.extra_ops import Repeat
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape

from pytensor_convnet.lowering.cuda.base import (
    Lowering,
    Target,
    UnsupportedOp,
    host_all,
    integers,
    lower,
    torch_dtype,
)

try:
    from pytensor.conditional.op import IfElse
except ImportError:  # before PyTensor 3.3
    from pytensor.ifelse import IfElse


def _host_from(node: Apply, first: int) -> frozenset[int]:
    return frozenset(range(first, len(node.inputs)))


@lower.register(TensorFromScalar)
@lower.register(ScalarFromTensor)
@lower.register(ViewOp)
def _lower_identity(op: Any, node: Apply, target: Target) -> Lowering:
    return Lowering(lambda x: x)


@lower.register(DeepCopyOp)
def _lower_copy(op: Any, node: Apply, target: Target) -> Lowering:
    return Lowering(lambda x: target.tensor(x).clone())


@lower.register(Shape)
def _lower_shape(op: Any, node: Apply, target: Target) -> Lowering:
    return Lowering(lambda x: np.array(x.shape, dtype=np.int64))


@lower.register(Shape_i)
def _lower_shape_i(op: Any, node: Apply, target: Target) -> Lowering:
    return Lowering(lambda x: np.int64(x.shape[op.i]))


@lower.register(DimShuffle)
def _lower_dimshuffle(op: Any, node: Apply, target: Target) -> Lowering:
    dropped = [axis for axis in range(node.inputs[0].type.ndim) if axis not in op.new_order]
    kept = [axis for axis in op.new_order if axis != "x"]
    added = [place for place, axis in enumerate(op.new_order) if axis == "x"]

    def dimshuffle(x: Any) -> torch.Tensor:
        x = target.tensor(x)
        if any(x.shape[axis] != 1 for axis in dropped):
            raise ValueError(f"{op} drops axes {dropped} of a tensor of shape {tuple(x.shape)}: their length must be 1")
        x = x.permute((*kept, *dropped))
        x = x[(..., *[0] * len(dropped))] if dropped else x
        for place in added:
            x = x.unsqueeze(place)
        return x

    return Lowering(dimshuffle)


@lower.register(Reshape)
def _lower_reshape(op: Any, node: Apply, target: Target) -> Lowering:
    def reshape(x: Any, shape: Any) -> torch.Tensor:
        return torch.reshape(target.tensor(x), integers(shape))

    return Lowering(reshape, frozenset({1}))


@lower.register(SpecifyShape)
def _lower_specify_shape(op: Any, node: Apply, target: Target) -> Lowering:
    wanted = [None if getattr(length, "data", 0) is None else i for i, length in enumerate(node.inputs[1:])]

    def specify_shape(x: Any, *lengths: Any) -> Any:
        pairs = zip(x.shape, (None if place is None else int(lengths[place]) for place in wanted))
        if any(length not in (None, found) for found, length in pairs):
            raise AssertionError(f"SpecifyShape: got shape {tuple(x.shape)}, expected {lengths}")
        return x

    return Lowering(specify_shape, _host_from(node, 1))


@lower.register(Alloc)
def _lower_alloc(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def alloc(value: Any, *shape: Any) -> torch.Tensor:
        return torch.broadcast_to(target.tensor(value, dtype), integers(shape))

    return Lowering(alloc, _host_from(node, 1))


@lower.register(AllocEmpty)
def _lower_alloc_empty(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])
    return Lowering(lambda *shape: torch.zeros(integers(shape), dtype=dtype, device=target.device), host_all(node))


@lower.register(ARange)
def _lower_arange(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def arange(start: Any, stop: Any, step: Any) -> torch.Tensor:
        return torch.arange(start.item(), stop.item(), step.item(), dtype=dtype, device=target.device)

    return Lowering(arange, host_all(node))


@lower.register(Eye)
def _lower_eye(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def eye(rows: Any, columns: Any, diagonal: Any) -> torch.Tensor:
        down = torch.arange(int(rows), device=target.device)[:, None]
        across = torch.arange(int(columns), device=target.device)[None, :]
        return (across - down == int(diagonal)).to(dtype)

    return Lowering(eye, host_all(node))


@lower.register(MakeVector)
def _lower_make_vector(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def make_vector(*entries: Any) -> torch.Tensor:
        if not entries:
            return torch.zeros(0, dtype=dtype, device=target.device)
        return torch.stack([target.tensor(entry, dtype) for entry in entries])

    return Lowering(make_vector)


@lower.register(Join)
def _lower_join(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def join(axis: Any, *tensors: Any) -> torch.Tensor:
        return torch.cat([target.tensor(tensor, dtype) for tensor in tensors], dim=int(axis))

    if hasattr(op, "axis"):  # since PyTensor 3.3 it is no input
        return Lowering(lambda *tensors: join(op.axis, *tensors))
    return Lowering(join, frozenset({0}))


@lower.register(Split)
def _lower_split(op: Any, node: Apply, target: Target) -> Lowering:
    def split(x: Any, axis: Any, lengths: Any) -> Any:
        x, parts = target.tensor(x), integers(lengths)
        if sum(parts) != x.shape[int(axis)] or min(parts, default=0) < 0:
            raise ValueError(f"Split: lengths {parts} do not add up to axis {int(axis)} of shape {tuple(x.shape)}")
        return list(torch.split(x, parts, dim=int(axis)))

    if hasattr(op, "axis"):
        return Lowering(lambda x, lengths: split(x, op.axis, lengths), frozenset({1}))
    return Lowering(split, frozenset({1, 2}))


@lower.register(Repeat)
def _lower_repeat(op: Any, node: Apply, target: Target) -> Lowering:
    def repeat(x: Any, times: Any) -> torch.Tensor:
        x = target.tensor(x)
        positions = np.repeat(np.arange(x.shape[op.axis]), times)
        return torch.index_select(x, op.axis, target.tensor(positions))

    return Lowering(repeat, frozenset({1}))


@lower.register(CheckAndRaise)
def _lower_check(op: Any, node: Apply, target: Target) -> Lowering:
    """What is known on the host is checked. A check of data would wait for the device at each call."""

    def check(x: Any, *conditions: Any) -> Any:
        if not all(np.all(condition) for condition in conditions if not isinstance(condition, torch.Tensor)):
            raise op.exc_type(op.msg)
        return x

    return Lowering(check)


@lower.register(IfElse)
def _lower_if_else(op: Any, node: Apply, target: Target) -> Lowering:
    """The branch that is chosen, where the host knows it; else both, of the same shape, and the device chooses."""
    count = op.n_outs

    def if_else(condition: Any, *branches: Any) -> Any:
        yes, no = branches[:count], branches[count:]
        if not isinstance(condition, torch.Tensor):
            return list(yes if condition else no)
        pairs = [(target.tensor(a), target.tensor(b)) for a, b in zip(yes, no)]
        if any(a.shape != b.shape for a, b in pairs):
            raise UnsupportedOp(node, "its branches have different shapes and its condition is on the device")
        return [torch.where(condition.to(torch.bool), a, b) for a, b in pairs]

    return Lowering(if_else, rather_host=frozenset({0}))


@lower.register(ExtractDiag)
def _lower_diagonal(op: Any, node: Apply, target: Target) -> Lowering:
    return Lowering(lambda x: torch.diagonal(target.tensor(x), op.offset, op.axis1, op.axis2).clone())
