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

    working = torch.bfloat16 if target.precision == "bf16" and dtype == torch.float32 else dtype

    def product(x: Any, y: Any) -> torch.Tensor:
        x, y = target.tensor(x, working), target.tensor(y, working)
        parts = _parts(x, y) if target.device.type == "cuda" else 1
        if parts == 1:
            return _matmul(x, y).to(dtype)
        rows, length = x.shape
        products = torch.bmm(
            x.reshape(rows, parts, length // parts).transpose(0, 1), y.reshape(parts, length // parts, y.shape[1])
        )
        return products.sum(dim=0, dtype=dtype)

    return Lowering(product)


def _matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product, in the order of elements that a transposed second factor suggests.

    That is the gradient of a dense layer for what it read: maps whose batch is innermost, if a convolution made them.
    """
    if x.ndim == y.ndim == 2 and y.stride(0) == 1 < y.stride(1):
        return torch.matmul(y.T, x.T).T
    return torch.matmul(x, y)


def _parts(x: torch.Tensor, y: torch.Tensor) -> int:
    """Into how many parts the sums of a product are split.

    The product of a minibatch with a softmax layer's few columns is computed by a handful of programs, each of which
    goes through long sums alone. Parts make more of them. Two are not worth the kernel that adds them up.
    """
    if x.ndim != 2 or y.ndim != 2:
        return 1
    length, programs = x.shape[1], -(-x.shape[0] // 64) * -(-y.shape[1] // 64)
    candidates = (16, 8, 4)
    return next((n for n in candidates if length % n == 0 and length // n >= 64 and programs * n <= 128), 1)


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
