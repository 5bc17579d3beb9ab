"""From an Op to a function over torch tensors: the dispatch, and what its functions have in common.

A value is one of two kinds. What lies on the device is a torch tensor; what is known on the host (a constant, a shape,
an integer argument) is a NumPy scalar or array, and may be read without waiting for the device. `Lowering` says which
inputs a function must have on the host, because shapes depend on them; all others it takes as they come.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.printing import debugprint

_DTYPES = {
    name: getattr(torch, name)
    for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
                 "float64", "complex64", "complex128")
}  # fmt: skip


LINEAR_ALGEBRA = frozenset({"linalg", "nlinalg", "slinalg"})
"""PyTensor's modules of inverses, decompositions and solvers; the first since PyTensor 3.0."""


@dataclass(frozen=True)
class Target:
    """Where and how precisely a function computes.

    Attributes
    ----------
    device : torch.device
    precision : {'ieee', 'high', 'medium', 'bf16'}
        How float32 is multiplied; see `pytensor_convnet.cuda.cuda_mode`.
    uploaded : dict
        Arrays of the host that are on the device already, since nothing can be uploaded while a graph is captured.
    """

    device: torch.device
    precision: str = "medium"
    uploaded: dict[Any, torch.Tensor] = field(default_factory=dict, compare=False)

    def tensor(self, value: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A value as a tensor on the device; one number becomes a tensor that a compiler sees through."""
        if isinstance(value, torch.Tensor):
            return value if dtype is None else value.to(dtype)
        value = np.asarray(value)
        if value.size == 1:
            return torch.full(value.shape, value.item(), dtype=dtype or _DTYPES[str(value.dtype)], device=self.device)
        array = np.ascontiguousarray(value)
        key = array.tobytes(), array.shape, str(array.dtype), dtype
        tensor = self.uploaded.get(key)
        if tensor is None:
            # A copy, since NumPy's memory may be read-only or change later.
            tensor = torch.tensor(array, dtype=dtype, device=self.device)
            if type(tensor) is torch.Tensor:  # and not one of a tracer's
                self.uploaded[key] = tensor
        return tensor


def has_kernels(target: Target) -> bool:
    """Whether Triton's kernels run there: on a GPU, or in Triton's interpreter."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
    return target.device.type == "cuda" or interpreted


@dataclass(frozen=True)
class Lowering:
    """How the linker computes an Op.

    Attributes
    ----------
    function : callable
        From the values of a node's inputs to that of its output, or to a sequence of those of its outputs.
    host : set of int
        The inputs that must be known on the host.
    rather_host : set of int
        Those that are better known there, where they can be without reading the device.
    reads_device : str
        What of the data on the device the function reads on the host, if anything: it cannot be captured then.
    deferred : callable, optional
        From the values of the inputs to a `operators.KernelCall` that computes the same, or to the result where that is
        better. Such calls are done together, side by side, where none needs the result of another.
    """

    function: Callable[..., Any]
    host: frozenset[int] = field(default_factory=frozenset)
    rather_host: frozenset[int] = field(default_factory=frozenset)
    reads_device: str = ""
    deferred: Callable[..., Any] | None = None


class UnsupportedOp(NotImplementedError):
    """An Op that mode CUDA cannot compute; the message has the graph around it."""

    def __init__(self, node: Apply, why: str = "") -> None:
        graph = debugprint(node.outputs[0], depth=3, file="str", print_type=True)
        reason = f": {why}" if why else ""
        super().__init__(
            f"mode CUDA cannot compute {node.op}{reason}. It is used here:\n{graph}\n"
            "Leave that part of the graph to another mode, or write a lowering: see pytensor_convnet.lowering.cuda."
        )


@singledispatch
def lower(op: Op, node: Apply, target: Target) -> Lowering:
    """How to compute ``op`` on torch tensors: PyTensor's own conversion to torch, where there is no better one here.

    Raises
    ------
    UnsupportedOp
    """
    from pytensor.link.pytorch.dispatch import pytorch_funcify

    try:
        function = pytorch_funcify(op, node=node)
    except NotImplementedError as error:
        raise UnsupportedOp(node) from error

    def on_device(*values: Any) -> Any:
        with target.device:
            return function(*(target.tensor(value) for value in values))

    return Lowering(on_device, reads_device="whether it succeeded" if _is_linear_algebra(op) else "")


def _is_linear_algebra(op: Op) -> bool:
    """Whether torch looks at what a solver says before it gives the result."""
    of_one_matrix = getattr(op, "core_op", op)
    return any(part in LINEAR_ALGEBRA for part in type(of_one_matrix).__module__.split("."))


def torch_dtype(variable: Variable) -> torch.dtype:
    """The dtype of a variable's value on the device."""
    return _DTYPES[variable.type.dtype]


def host_all(node: Apply) -> frozenset[int]:
    """All inputs of a node, as `Lowering.host` has them."""
    return frozenset(range(len(node.inputs)))


def integers(values: Any) -> tuple[int, ...]:
    """Host integers as Python has them."""
    return tuple(int(value) for value in np.ravel(values))
