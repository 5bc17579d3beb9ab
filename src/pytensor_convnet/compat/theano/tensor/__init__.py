"""``theano.tensor``: every name of ``pytensor.tensor``, with Theano's meaning where that differs."""

import pytensor

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.compile.sharedvalue import shared as _shared
from pytensor_convnet.compat.theano.gradient import Lop, Rop, consider_constant
from pytensor_convnet.compat.theano.tensor import basic, extra_ops, nnet, signal
from pytensor_convnet.compat.theano.tensor.basic import (
    Rebroadcast,
    abs_,
    addbroadcast,
    argtopk,
    batched_dot,
    batched_tensordot,
    col,
    dot,
    flatten,
    get_scalar_constant_value,
    identity_like,
    inv,
    is_flat,
    matrix,
    mean,
    patternbroadcast,
    repeat,
    reshape,
    row,
    scalar,
    sgn,
    split,
    squeeze,
    stack,
    tensor,
    tensor3,
    tensor4,
    tensor5,
    tensor6,
    tensor7,
    tile,
    topk,
    topk_and_argtopk,
    unbroadcast,
    vector,
    wmatrix,
)
from pytensor_convnet.compat.theano.tensor.var import TensorVariable

SOURCES = (
    "pytensor.tensor",
    "pytensor.tensor.type",
    "pytensor.tensor.basic",
    "pytensor.tensor.math",
    "pytensor.tensor.elemwise",
    "pytensor.tensor.subtensor",
    "pytensor.tensor.shape",
    "pytensor.tensor.reshape",
    "pytensor.tensor.variable",
    "pytensor.tensor.sharedvar",
    "pytensor.tensor.extra_ops",
    "pytensor.tensor.sort",
    "pytensor.tensor.nlinalg",
    "pytensor.tensor.slinalg",
    "pytensor.tensor.exceptions",
    "pytensor.gradient",
)
"""Where a name of ``theano.tensor`` is looked for, in this order."""

sort, var = pytensor.tensor.sort, pytensor.tensor.var
"""Named like the modules that Theano had them in, which importing has bound to these names."""

__getattr__, __dir__ = mirror(
    __name__,
    *SOURCES,
    missing={"inplace": "PyTensor makes Ops work in place by itself: use the functions of theano.tensor"},
)

__all__ = [  # what `from theano.tensor import *` gives
    "Lop",
    "Rebroadcast",
    "Rop",
    "TensorVariable",
    "_shared",
    "abs_",
    "addbroadcast",
    "argtopk",
    "basic",
    "batched_dot",
    "batched_tensordot",
    "col",
    "consider_constant",
    "dot",
    "extra_ops",
    "flatten",
    "get_scalar_constant_value",
    "identity_like",
    "inv",
    "is_flat",
    "matrix",
    "mean",
    "nnet",
    "patternbroadcast",
    "repeat",
    "reshape",
    "row",
    "scalar",
    "sgn",
    "signal",
    "sort",
    "split",
    "squeeze",
    "stack",
    "tensor",
    "tensor3",
    "tensor4",
    "tensor5",
    "tensor6",
    "tensor7",
    "tile",
    "topk",
    "topk_and_argtopk",
    "unbroadcast",
    "var",
    "vector",
    "wmatrix",
]
__all__ += sorted({name for name in dir(pytensor.tensor) if name[:1] != "_"} - {*__all__, "linalg", "random"})
