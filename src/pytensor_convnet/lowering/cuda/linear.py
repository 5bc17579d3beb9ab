"""Products of matrices: cuBLAS through torch."""

from typing import Any

import torch
from pytensor.graph.basic import Apply
from pytensor.tensor.blas import BatchedDot, Dot22, Dot22Scalar, Gemm, Gemv
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.math import Dot

from pytensor_convnet.lowering.cuda.base import Lowering, Target, lower, torch_dtype


@lower.register(Dot)
@lower.register(Dot22)
@lower.register(BatchedDot)
def _lower_product(op: Any, node: Apply, target: Target) -> Lowering:
    dtype = torch_dtype(node.outputs[0])

    def product(x: Any, y: Any) -> torch.Tensor:
        return torch.matmul(target.tensor(x, dtype), target.tensor(y, dtype))

    return Lowering(product)


@lower.register(Dot22Scalar)
def _lower_scaled_product(op: Any, node: Apply, target: Target) -> Lowering:
    def product(x: torch.Tensor, y: torch.Tensor, scale: Any) -> torch.Tensor:
        return torch.matmul(x, y) * target.tensor(scale, x.dtype)

    return Lowering(product)


@lower.register(Gemm)
@lower.register(Gemv)
def _lower_gemm(op: Any, node: Apply, target: Target) -> Lowering:
    def gemm(z: torch.Tensor, scale: Any, x: torch.Tensor, y: torch.Tensor, keep: Any) -> torch.Tensor:
        return target.tensor(keep, z.dtype) * z + target.tensor(scale, z.dtype) * torch.matmul(x, y)

    return Lowering(gemm)


@lower.register(Blockwise)
def _lower_blockwise(op: Any, node: Apply, target: Target) -> Lowering:
    """Products over batch axes are one call; of all else torch maps the core function over them."""
    if isinstance(op.core_op, Dot):
        return _lower_product(op, node, target)
    return lower.dispatch(object)(op, node, target)
