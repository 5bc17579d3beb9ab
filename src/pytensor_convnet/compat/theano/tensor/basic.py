"""``theano.tensor.basic``: functions of which PyTensor's differ in name, arguments or meaning."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.basic import get_scalar_constant_value as _scalar_constant_value
from pytensor.tensor.exceptions import NotScalarConstantError
from pytensor.tensor.type import TensorType

from pytensor_convnet.compat.mirror import mirror

__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.compat.theano.tensor")

inv = pt.reciprocal
abs_ = pt.abs
sgn = pt.sign
wmatrix = TensorType("int16", (None, None))


# --------------------------------------------------------------------------------------------- constructors


def _constructor(name: str) -> Callable[..., Variable]:
    """PyTensor's constructor of this name, whose ``dtype`` may also be given by position."""
    make = getattr(pt, name)

    def construct(name: str | None = None, dtype: str | None = None) -> Variable:
        return make(name, dtype=dtype)

    construct.__name__ = name
    construct.__doc__ = f"A symbolic {name}; ``dtype`` is by default ``theano.config.floatX``."
    return construct


scalar = _constructor("scalar")
vector = _constructor("vector")
matrix = _constructor("matrix")
row = _constructor("row")
col = _constructor("col")
tensor3 = _constructor("tensor3")
tensor4 = _constructor("tensor4")
tensor5 = _constructor("tensor5")
tensor6 = _constructor("tensor6")
tensor7 = _constructor("tensor7")


def tensor(dtype: str | None = None, broadcastable: Sequence[bool] = (), name: str | None = None) -> Variable:
    """A symbolic tensor.

    Parameters
    ----------
    dtype : str, optional
        By default ``theano.config.floatX``.
    broadcastable : sequence of bool
        One entry an axis: whether its length is 1 for ever.
    name : str, optional

    Returns
    -------
    tensor variable

    Examples
    --------
    >>> tensor("float32", (False, False, True), name="x").type.shape
    (None, None, 1)
    """
    return TensorType("floatX" if dtype is None else dtype, tuple(map(bool, broadcastable)))(name)


# --------------------------------------------------------------------------------------------- shapes


def flatten(x: Any, ndim: int | None = None, outdim: int | None = None) -> Variable:
    """Merge the last axes so that ``ndim`` remain.

    Parameters
    ----------
    x : tensor of shape (a1, ..., an)
    ndim : int, optional
        How many axes the result has, by default 1.
    outdim : int, optional
        The old name of ``ndim``.

    Returns
    -------
    tensor of shape (a1, ..., a(ndim - 1), the product of the others)
    """
    if ndim is not None and outdim is not None:
        raise ValueError("ndim and outdim are two names of one argument: give one of them")
    axes = outdim if ndim is None else ndim
    return pt.as_tensor_variable(x).flatten(1 if axes is None else axes)


def is_flat(var: Variable, ndim: int | None = None, outdim: int | None = None) -> bool:
    """Whether ``var`` has ``ndim`` axes (1 by default; ``outdim`` is the old name)."""
    return var.ndim == (ndim or outdim or 1)


def stack(*tensors: Any, axis: int = 0) -> Variable:
    """Join along a new axis.

    Parameters
    ----------
    *tensors : tensors of one shape
        One list of them (and after it, perhaps, ``axis``), or, as in Theano before 0.8, each an argument of its own.
    axis : int

    Returns
    -------
    tensor with one axis more
    """
    if tensors and isinstance(tensors[0], list | tuple):
        return pt.stack(list(tensors[0]), *tensors[1:2] or (axis,))
    return pt.stack(list(tensors), axis)


def tile(x: Any, reps: Any, ndim: int | None = None) -> Variable:
    """Repeat ``x`` as a whole, ``reps`` times along each axis; ``ndim`` is how many axes the result has."""
    if ndim is not None and isinstance(reps, Sequence):
        reps = (1,) * (ndim - len(reps)) + tuple(reps)
    return pt.tile(x, reps)


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Variable:
    """Repeat each entry of ``x``, along ``axis`` or, without it, of the flat tensor."""
    return pt.repeat(x, repeats, axis)


def reshape(x: Any, newshape: Any, ndim: int | None = None) -> Variable:
    """``x`` with its entries, in their order, in another shape.

    Parameters
    ----------
    x : tensor
    newshape : sequence of int and symbolic scalars, or symbolic vector
        One entry may be -1: what is left.
    ndim : int, optional
        The length of ``newshape``, where that cannot be seen.

    Returns
    -------
    tensor of shape ``newshape``
    """
    return pt.reshape(x, newshape, ndim=ndim)


def split(x: Any, splits_size: Any, n_splits: int | None = None, axis: int = 0) -> Any:
    """Cut ``x`` along ``axis`` into ``n_splits`` parts of these sizes; where that number is plain, leave it out."""
    return pt.split(x, splits_size, n_splits=n_splits, axis=axis)


def squeeze(x: Any) -> Variable:
    """``x`` without the axes that are known to have length 1."""
    return pt.squeeze(pt.as_tensor_variable(x))


def addbroadcast(x: Any, *axes: int) -> Variable:
    """``x``, of which ``axes`` have length 1; checked when the function runs."""
    return pt.specify_broadcastable(pt.as_tensor_variable(x), *axes)


def unbroadcast(x: Any, *axes: int) -> Variable:
    """``x`` as it is. In Theano an axis of length 1 could be made one that does not broadcast; PyTensor needs no such
    distinction, a variable of known length fits wherever an unknown length is expected."""
    return pt.as_tensor_variable(x)


def patternbroadcast(x: Any, broadcastable: Sequence[bool]) -> Variable:
    """``x``, of which the axes that ``broadcastable`` marks have length 1."""
    return addbroadcast(x, *(axis for axis, one in enumerate(broadcastable) if one))


class Rebroadcast:
    """`addbroadcast` and `unbroadcast` as an operator.

    Parameters
    ----------
    *axis : (int, bool)
        An axis, and whether its length is 1.
    """

    def __init__(self, *axis: tuple[int, bool]):
        self.axis = dict(axis)

    def __call__(self, x: Any) -> Variable:
        return addbroadcast(x, *(axis for axis, one in self.axis.items() if one))


# --------------------------------------------------------------------------------------------- arithmetic


def mean(
    input: Any, axis: Any = None, dtype: Any = None, op: bool = False, keepdims: bool = False, acc_dtype: Any = None
) -> Variable:
    """The mean over ``axis``.

    Parameters
    ----------
    input : tensor
    axis : int or sequence of int, optional
        All axes if not given.
    dtype, acc_dtype : str, optional
        The dtypes of the result and of the sum.
    op : bool
        Chose between two ways of computing it in Theano; has no effect.
    keepdims : bool
        Whether ``axis`` stays, with length 1.

    Returns
    -------
    tensor
    """
    return pt.mean(input, axis=axis, dtype=dtype, keepdims=keepdims, acc_dtype=acc_dtype)


def identity_like(x: Any) -> Variable:
    """An identity matrix of the shape and dtype of ``x``."""
    x = pt.as_tensor_variable(x)
    return pt.eye(x.shape[0], x.shape[1], dtype=x.dtype)


def dot(a: Any, b: Any) -> Variable:
    """The product of matrices or vectors: the last axis of ``a`` with the last but one (or only one) of ``b``."""
    return pt.dot(a, b)


def batched_dot(a: Any, b: Any) -> Variable:
    """A product for each entry of the first axis.

    Parameters
    ----------
    a : tensor of shape (batch, n, m) or (batch, m)
    b : tensor of shape (batch, m, k) or (batch, m)

    Returns
    -------
    tensor of shape (batch, n, k), without the axes that an input lacks
    """
    a, b = pt.as_tensor_variable(a), pt.as_tensor_variable(b)
    if not (a.ndim in (2, 3) and b.ndim in (2, 3)):
        raise ValueError(f"batched_dot takes tensors of 2 or 3 axes, got {a.type} and {b.type}")
    product = pt.matmul(a if a.ndim == 3 else a[:, None, :], b if b.ndim == 3 else b[:, :, None])
    if b.ndim == 2:
        product = product[:, :, 0]
    return product if a.ndim == 3 else product[:, 0]


def batched_tensordot(x: Any, y: Any, axes: Any = 2) -> Variable:
    """``tensordot`` for each entry of the first axis, over ``axes``: a number of axes, or a pair of lists of them."""
    x, y = pt.as_tensor_variable(x), pt.as_tensor_variable(y)
    if isinstance(axes, int):
        pairs = [list(range(x.ndim - axes, x.ndim)), list(range(1, axes + 1))]
    else:
        pairs = [[one] if isinstance(one, int) else list(one) for one in axes]
    letters = iter("bcdefghijklmnopqrstuvwxyz")
    first = ["a"] + [next(letters) for _ in range(x.ndim - 1)]
    second = ["a"] + [next(letters) for _ in range(y.ndim - 1)]
    for mine, its in zip(*pairs):
        second[its] = first[mine]
    summed = {first[axis] for axis in pairs[0]}
    result = [letter for letter in (*first, *second[1:]) if letter not in summed]
    return pt.einsum(f"{''.join(first)},{''.join(second)}->{''.join(result)}", x, y)


def topk_and_argtopk(
    x: Any, kth: int, axis: int = -1, sorted: bool = True, idx_dtype: str = "int64"
) -> tuple[Variable, Variable]:
    """The ``kth`` largest entries along ``axis`` (with a negative ``kth``: the smallest), and where they are.

    Parameters
    ----------
    x : tensor
    kth : int
        How many; not 0.
    axis : int
    sorted : bool
        Theano left the order open; they are sorted here.
    idx_dtype : str
        The dtype of the indices.

    Returns
    -------
    (tensor, tensor)
        Entries and indices, in ascending order of the entries.
    """
    x = pt.as_tensor_variable(x)
    order = pt.argsort(x, axis=axis)
    taken: list[Any] = [slice(None)] * x.ndim
    taken[axis] = slice(-kth, None) if kth > 0 else slice(None, -kth)
    indices = order[tuple(taken)]
    return pt.take_along_axis(x, indices, axis=axis), indices.astype(idx_dtype)


def topk(x: Any, kth: int, axis: int = -1, sorted: bool = True, idx_dtype: str = "int64") -> Variable:
    """The entries of `topk_and_argtopk`."""
    return topk_and_argtopk(x, kth, axis, sorted, idx_dtype)[0]


def argtopk(x: Any, kth: int, axis: int = -1, sorted: bool = True, idx_dtype: str = "int64") -> Variable:
    """The indices of `topk_and_argtopk`."""
    return topk_and_argtopk(x, kth, axis, sorted, idx_dtype)[1]


def get_scalar_constant_value(v: Any, **kwargs: Any) -> np.ndarray:
    """The number that ``v`` is known to be; a NotScalarConstantError if it is not known."""
    return _scalar_constant_value(v, **kwargs)


__all__ = ["NotScalarConstantError"]
