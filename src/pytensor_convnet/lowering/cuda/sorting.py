"""Sorting, and what sorting finds."""

from dataclasses import replace
from typing import Any

import torch
from pytensor.graph.basic import Apply
from pytensor.tensor.extra_ops import Unique
from pytensor.tensor.sort import ArgSortOp, SortOp

from pytensor_convnet.lowering.cuda.base import Lowering, Target, lower

_AXIS = frozenset({1})


@lower.register(SortOp)
def _lower_sort(op: Any, node: Apply, target: Target) -> Lowering:
    stable = op.kind == "stable"
    return Lowering(lambda x, axis: torch.sort(target.tensor(x), dim=int(axis), stable=stable).values, _AXIS)


@lower.register(ArgSortOp)
def _lower_argsort(op: Any, node: Apply, target: Target) -> Lowering:
    stable = op.kind == "stable"
    return Lowering(lambda x, axis: torch.argsort(target.tensor(x), dim=int(axis), stable=stable), _AXIS)


@lower.register(Unique)
def _lower_unique(op: Any, node: Apply, target: Target) -> Lowering:
    by_pytensor = lower.dispatch(object)(op, node, target)
    return replace(by_pytensor, reads_device="how many different entries there are")
