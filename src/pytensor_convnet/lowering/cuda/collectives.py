"""The mean over processes as an operator of torch, ``pytensor_convnet::all_mean``; its compiler leaves it as it is."""

import torch
from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.kernels import collectives
from pytensor_convnet.lowering.cuda.base import Lowering, lower
from pytensor_convnet.ops import AllMean


@custom_op("pytensor_convnet::all_mean", mutates_args=())
def all_mean(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all processes."""
    return collectives.all_mean(tensors)


@all_mean.register_fake
def _(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in tensors]


@lower.register(AllMean)
def _lower_all_mean(op, node, target):
    alone = len(node.inputs) == 1

    def means(*tensors):
        results = all_mean([target.tensor(tensor) for tensor in tensors])
        return results[0] if alone else results

    return Lowering(means)
