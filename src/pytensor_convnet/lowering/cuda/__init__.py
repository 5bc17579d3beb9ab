"""How mode CUDA computes Ops: functions over torch tensors, PyTensor's Ops and ours.

    base            the dispatch, `lower`, and what its functions have in common
    elementwise     elementwise Ops, reductions, softmax
    linear          products of matrices
    shapes          making, viewing and joining tensors
    indexing        reading and writing parts of tensors
    sorting         sorting, and what sorting finds
    random          random numbers
    collectives     the mean over processes
    convnet         our Ops, by `operators` (the Triton kernels) or `torch_operations`

An Op that is not here is computed by PyTensor's own conversion to torch, if that has it. To add one, register a
function with `lower`:

>>> from pytensor_convnet.lowering.cuda.base import Lowering, lower  # doctest: +SKIP
>>> @lower.register(MyOp)  # doctest: +SKIP
... def lower_my_op(op, node, target):
...     return Lowering(lambda x: my_function(x))
"""

from pytensor_convnet.lowering.cuda import (  # noqa: F401
    collectives,
    convnet,
    elementwise,
    indexing,
    linear,
    pooling,
    random,
    shapes,
    sorting,
)
from pytensor_convnet.lowering.cuda.base import Lowering, Target, UnsupportedOp, lower

__all__ = ["Lowering", "Target", "UnsupportedOp", "lower"]
