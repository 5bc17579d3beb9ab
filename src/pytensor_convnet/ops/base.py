"""What all our Ops share: static and symbolic shapes from one formula, NumPy evaluation, vectorisation."""

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import _vectorize_node
from pytensor.tensor.basic import get_scalar_constant_value
from pytensor.tensor.blockwise import vectorize_node_fallback

from pytensor_convnet.geometry import Length, Pair

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@singledispatch
def evaluate(op: Op, node: Apply, *inputs: Any) -> Sequence[Any]:
    """Compute the outputs of ``op`` for NumPy ``inputs``; `lowering` registers one function for each Op."""
    raise NotImplementedError(f"{op} has no implementation for NumPy arrays")


class ConvnetOp(Op):
    """An Op on bc01 tensors whose output shapes are arithmetic.

    A subclass takes its tensors first and its integers (rows, columns, window, stride, padding) after them, and
    writes the arithmetic once, in `output_shapes`: with numbers it gives static shapes, with symbols
    ``infer_shape``. A length that is not known is NaN, which arithmetic carries through to every length that
    depends on it.
    """

    tensor_count: int
    """How many of the inputs are tensors; the integers follow them."""

    batched_input: int | None = None
    """The input whose batch axis only runs along, so that further batch axes may be merged into it, if alone."""

    def output_shapes(self, shapes: Sequence[Sequence[Length]], *integers: Any) -> list[tuple[Length, ...]]:
        """Shapes of all outputs, from the tensors' shapes and the values of the integer inputs."""
        raise NotImplementedError

    def static_output_shapes(self, *inputs: Variable) -> list[tuple[int | None, ...]]:
        """`output_shapes` as far as types and constants tell them."""
        tensors, integers = inputs[: self.tensor_count], inputs[self.tensor_count :]
        shapes = [unknown_to_nan(list(x.type.shape)) for x in tensors]
        outputs = self.output_shapes(shapes, *(unknown_to_nan(known_values(x)) for x in integers))
        return [tuple(None if math.isnan(length) else int(length) for length in shape) for shape in outputs]

    def infer_shape(self, *arguments):
        # PyTensor 3.0 passes (fgraph, node, shapes), later versions (node, shapes).
        node, shapes = arguments[-2:]
        return self.output_shapes(shapes[: self.tensor_count], *node.inputs[self.tensor_count :])

    def perform(self, node, inputs, outputs):
        for storage, result in zip(outputs, evaluate(self, node, *inputs), strict=True):
            storage[0] = result


def known_values(integers: Variable) -> Any:
    """The values of a symbolic integer scalar, vector or matrix as (nested) lists, ``None`` where not constant."""
    if isinstance(integers, Constant):
        return integers.data.tolist()
    if integers.type.ndim == 0:
        value = get_scalar_constant_value(integers, raise_not_constant=False)
        return None if isinstance(value, Variable) else int(value)
    return [known_values(integers[i]) for i in range(2)]


def unknown_to_nan(values: Any) -> Any:
    """``values`` with ``None`` replaced, ready for arithmetic."""
    if isinstance(values, list):
        return [unknown_to_nan(value) for value in values]
    return math.nan if values is None else values


def as_images(tensor: Any, name: str, dtypes: Sequence[str] = FLOATS, *, ndim: int = 4) -> Variable:
    """``tensor`` as a symbolic variable, with an error that names it if it has the wrong axes or dtype."""
    try:
        variable = pt.as_tensor_variable(tensor)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{name} must be a tensor with {ndim} axes, got {tensor!r}") from error
    if variable.type.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} axes, got {variable.type.ndim} (type {variable.type}). "
            "Images are (batch, channels, rows, columns), filters (filters, channels, rows, columns)."
        )
    if variable.type.dtype not in dtypes:
        raise ValueError(
            f"{name} has dtype {variable.type.dtype}; this operation takes {' or '.join(dtypes)}. "
            f"Cast it, for example {name}.astype('float32')."
        )
    return variable


def as_common_floats(**tensors: tuple[Any, int]) -> list[Variable]:
    """Named ``(tensor, ndim)`` pairs as variables of one float dtype, the widest among them.

    Integers join in beside floats (an image of bytes and float filters); on their own they are refused.
    """
    variables = [
        as_images(tensor, name, (*FLOATS, "bool", *INTEGERS), ndim=ndim) for name, (tensor, ndim) in tensors.items()
    ]
    floats = [x.type.dtype for x in variables if x.type.dtype in FLOATS]
    if not floats:
        raise ValueError(
            f"{' and '.join(tensors)} have dtypes {', '.join(x.type.dtype for x in variables)}; at least one "
            "must be float32 or float64. Cast, for example with .astype('float32')."
        )
    return [x.astype(max(floats)) for x in variables]  # "float64" > "float32", also as strings


def as_integers(values: Any, name: str, shape: tuple[int, ...] = ()) -> Variable:
    """``values`` as a symbolic int64 tensor of ``shape``."""
    try:
        variable = pt.as_tensor_variable(values)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{name} must be integers of shape {shape}, got {values!r}") from error
    if variable.type.dtype in INTEGERS:
        if isinstance(variable, Constant) and variable.type.dtype != "int64":
            variable = pt.constant(variable.data.astype("int64"))
        variable = variable.astype("int64")
    mismatch = variable.type.ndim != len(shape) or any(
        known not in (None, wanted) for known, wanted in zip(variable.type.shape, shape)
    )
    if variable.type.dtype != "int64" or mismatch:
        raise ValueError(f"{name} must be integers of shape {shape}, got {values!r} of type {variable.type}")
    return variable


def check_no_problem(problem: str | None) -> None:
    """Raise what `geometry` found out about static shapes."""
    if problem is not None:
        raise ValueError(problem)


def pair_name(pair: Pair) -> str:
    """A pair as it is printed in an Op's name."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


@_vectorize_node.register(ConvnetOp)
def _vectorize_by_merging(op, node, *inputs):
    """Batch axes of the one input that runs along merge into its own batch axis; else PyTensor's Blockwise loops."""
    batched = [i for i, (old, new) in enumerate(zip(node.inputs, inputs)) if old.type.ndim != new.type.ndim]
    if batched != [op.batched_input]:
        return vectorize_node_fallback(op, node, *inputs)
    images = inputs[batched[0]]
    leading = images.type.ndim - 3
    merged_length = pt.prod(pt.stack([images.shape[i] for i in range(leading)]))
    merged = images.reshape((merged_length, *(images.shape[i] for i in range(leading, images.type.ndim))))
    arguments = [merged if i == batched[0] else x for i, x in enumerate(inputs)]
    results = op.make_node(*arguments).outputs
    return [
        x.reshape((*(images.shape[i] for i in range(leading)), *(x.shape[i] for i in range(1, 4)))) for x in results
    ]
