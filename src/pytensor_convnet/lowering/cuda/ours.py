"""What lowerings of our own Ops share: Triton's kernels, where these run, else the CPU's; shapes and windows for them.

Triton's kernels run where there is a GPU, and in Triton's interpreter.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply

from pytensor_convnet.lowering.cuda.base import Lowering, Target, has_kernels, lower
from pytensor_convnet.ops.base import ConvnetOp, evaluate


def host_integers(op: ConvnetOp, node: Apply) -> frozenset[int]:
    """The places of the integers that follow an Op's tensors, all of which must be known on the host."""
    return frozenset(range(op.tensor_count, len(node.inputs)))


def shapes_of(op: ConvnetOp, tensors: Sequence[torch.Tensor], numbers: Sequence[Any]) -> list[tuple[int, ...]]:
    """The shapes of an Op's results."""
    shapes = op.output_shapes([tuple(tensor.shape) for tensor in tensors], *numbers)
    return [tuple(int(length) for length in shape) for shape in shapes]


def on_the_host(op: ConvnetOp, node: Apply, target: Target) -> Callable[..., Any]:
    """The Op by the CPU kernels, on tensors of torch's CPU device."""

    def run(*values: Any) -> list[torch.Tensor]:
        arrays = [value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value) for value in values]
        arrays = [array.astype(x.type.dtype, copy=False) for array, x in zip(arrays, node.inputs)]
        return [target.tensor(result) for result in evaluate(op, node, *arrays)]

    return run


def lower_ours(op_type: type, on_gpu: Callable[[Any, Apply, Target], Callable[..., Any]]) -> None:
    """Register an Op: by ``on_gpu`` where Triton's kernels run, else by the CPU kernels."""

    @lower.register(op_type)
    def _lower(op: Any, node: Apply, target: Target) -> Lowering:
        make = on_gpu if has_kernels(target) else on_the_host
        return Lowering(make(op, node, target), host_integers(op, node))


def kernel_results(name: str, tensors: list[torch.Tensor], arguments: Sequence[Any], results: Any, **more: Any) -> Any:
    """All results of a kernel; see `operators.KernelCall`."""
    from pytensor_convnet.lowering.cuda.operators import KernelCall, call

    return call(KernelCall(name, tensors, arguments, results, **more))


def windows_of(numbers: Sequence[Any]) -> tuple[Any, ...]:
    """Window, stride and padding as the kernels want them."""
    window, stride, padding = (np.asarray(entry).tolist() for entry in numbers)
    return tuple(window), tuple(stride), tuple(tuple(sides) for sides in padding)
