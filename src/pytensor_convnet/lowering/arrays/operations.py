"""From an Op to a function over a library's arrays: its integers read, its arguments checked, its results computed."""

from collections.abc import Callable
from typing import Any

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.tensor.elemwise import DimShuffle

from pytensor_convnet.lowering.arrays import normalisation, pooling
from pytensor_convnet.lowering.arrays.checks import (
    check_correlation,
    check_normalised,
    check_pool,
    check_pooled,
    check_winners,
)
from pytensor_convnet.lowering.arrays.library import Library
from pytensor_convnet.lowering.arrays.pooling import pooled_lengths, windows_of
from pytensor_convnet.ops import (
    AllMean,
    AveragePool2d,
    AveragePool2dGrad,
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CrossMapNorm,
    CrossMapNormGrad,
    CrossMapSum,
    DrawWinners2d,
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
    LocallyConnected2dInputGrad,
    MaxPool2d,
    MaxPool2dGather,
    MaxPool2dGrad,
    MaxPool2dMaxima,
)
from pytensor_convnet.ops.lengths import KnownLength, KnownLengths

BUILDERS: dict[type[Op], Callable[[Any, Apply, Library], Callable[..., Any]]] = {}
"""By Op, how its function is made: one of its tensors, and of its integers as Python's.

These are the Ops that functions hold where no rewrite makes others, for which a backend has kernels of its own.
"""

_INTEGERS = {0: (), 2: ("rows", "columns"), 3: ("ws", "stride", "pad"), 5: ("rows", "columns", "ws", "stride", "pad")}
"""What the integers of an Op are called, by their number."""


def function_of(op: Any, node: Apply, library: Library) -> Callable[..., Any]:
    """The function that computes a node: from the values of its inputs to its output or, of several, to them all.

    Parameters
    ----------
    op : Op
        One of `BUILDERS`.
    node : Apply
        The node, of which constants are read at once.
    library : Library
        What computes.

    Returns
    -------
    callable
        It raises a ValueError for arguments that do not fit, and for integers that ``library`` cannot know.
    """
    compute, count = BUILDERS[type(op)](op, node, library), tensor_count(node)
    dtypes = [x.type.dtype for x in node.inputs[:count]]
    names, constants = _INTEGERS[len(node.inputs) - count], constant_integers(node)

    def function(*values):
        # A backend's results of PyTensor's own Ops may be wider than PyTensor believes.
        tensors = [library.cast(value, dtype) for value, dtype in zip(values, dtypes)]
        integers = [
            _tuples(library.integers(value, name)) if constant is None else constant
            for value, name, constant in zip(values[count:], names, constants)
        ]
        return compute(*tensors, *integers)

    return function


def register(dispatch: Any, library: Library) -> None:
    """Let a backend of PyTensor, by its ``dispatch``, compute our Ops with a library."""
    for op_type in BUILDERS:
        dispatch.register(op_type)(lambda op, node, **kwargs: function_of(op, node, library))


def register_lengths(dispatch: Any) -> None:
    """Let lengths be plain numbers there, where they are such before a function is compiled for them."""
    dispatch.register(KnownLength)(lambda op, **kwargs: lambda *lengths: int(op.scalar_op.impl(*lengths)))
    dispatch.register(KnownLengths)(lambda op, **kwargs: lambda *lengths: lengths)


def tensor_count(node: Apply) -> int:
    """How many of a node's inputs are tensors; the integers follow them."""
    return getattr(node.op, "tensor_count", len(node.inputs))


def constant_integers(node: Apply) -> list[Any]:
    """The integers of a node as numbers and tuples, ``None`` where they are no constants."""
    return [_constant(x) for x in node.inputs[tensor_count(node) :]]


def _constant(x: Variable) -> Any:
    """What a variable holds, if it is a constant, or a constant without some axes of length one."""
    source = x.owner.inputs[0] if x.owner is not None and _only_drops_axes(x.owner.op) else x
    if not isinstance(source, Constant):
        return None
    return _tuples(source.data.reshape(source.data.shape[source.data.ndim - x.type.ndim :]).tolist())


def _only_drops_axes(op: Op) -> bool:
    return isinstance(op, DimShuffle) and not op.augment and list(op.shuffle) == sorted(op.shuffle)


def _tuples(integers: Any) -> Any:
    """Nested sequences as tuples, a number as it is."""
    return tuple(map(_tuples, integers)) if isinstance(integers, list | tuple) else integers


def _computes(*op_types: type[Op]):
    """Let a function build what computes nodes of these Ops."""

    def decorator(builder):
        BUILDERS.update(dict.fromkeys(op_types, builder))
        return builder

    return decorator


# --------------------------------------------------------------------------------------- correlations


def _sliding(op, taps):
    """How filters of ``taps`` (rows, columns) slide, in the order of `reference`'s arguments."""
    return op.stride, op.resolved_padding(*taps), op.dilation, op.groups, op.flip


@_computes(Correlate2d)
def _correlate2d(op, node, library):
    def correlate(images, filters):
        check_correlation(op, images.shape, filters.shape)
        return library.correlate2d(images, filters, *_sliding(op, filters.shape[2:]))

    return correlate


@_computes(Correlate2dInputGrad)
def _correlate2d_input_grad(op, node, library):
    def gradient(filters, maps, rows, columns):
        images = (maps.shape[0], filters.shape[1] * op.groups, rows, columns)
        check_correlation(op, images, filters.shape, maps.shape)
        return library.correlate2d_input_grad(filters, maps, rows, columns, *_sliding(op, filters.shape[2:]))

    return gradient


@_computes(Correlate2dFilterGrad)
def _correlate2d_filter_grad(op, node, library):
    def gradient(images, maps, rows, columns):
        filters = (maps.shape[1], images.shape[1] // op.groups, rows, columns)
        check_correlation(op, images.shape, filters, maps.shape)
        return library.correlate2d_filter_grad(images, maps, rows, columns, *_sliding(op, (rows, columns)))

    return gradient


@_computes(LocallyConnected2d)
def _locally_connected2d(op, node, library):
    def connect(images, filters):
        check_correlation(op, images.shape, filters.shape, (images.shape[0], *filters.shape[:3]))
        return library.locally_connected2d(images, filters, *_sliding(op, filters.shape[4:]))

    return connect


@_computes(LocallyConnected2dInputGrad)
def _locally_connected2d_input_grad(op, node, library):
    def gradient(filters, maps, rows, columns):
        images = (maps.shape[0], filters.shape[3] * op.groups, rows, columns)
        for connected in (maps.shape, (maps.shape[0], *filters.shape[:3])):
            check_correlation(op, images, filters.shape, connected)
        return library.locally_connected2d_input_grad(filters, maps, rows, columns, *_sliding(op, filters.shape[4:]))

    return gradient


@_computes(LocallyConnected2dFilterGrad)
def _locally_connected2d_filter_grad(op, node, library):
    def gradient(images, maps, rows, columns):
        filters = (*maps.shape[1:], images.shape[1] // op.groups, rows, columns)
        check_correlation(op, images.shape, filters, maps.shape)
        return library.locally_connected2d_filter_grad(images, maps, rows, columns, *_sliding(op, (rows, columns)))

    return gradient


# ---------------------------------------------------------------------------------------------- pools


@_computes(MaxPool2d, MaxPool2dMaxima)
def _max_pool2d(op, node, library):
    alone = isinstance(op, MaxPool2dMaxima)
    winners_dtype = "int32" if alone else node.outputs[1].type.dtype

    def pool(images, *numbers):
        check_pool(images.shape, op.ignore_border, *numbers)
        windows = windows_of(*numbers)
        counts = pooled_lengths(images, windows, op.ignore_border)
        maxima, winners = library.max_pool2d(images, winners_dtype, counts, windows)
        return maxima if alone else (maxima, winners)

    return pool


@_computes(MaxPool2dGrad)
def _max_pool2d_grad(op, node, library):
    def gradient(winners, maps, rows, columns, *numbers):
        check_winners(winners.shape, maps.shape)
        check_pooled((*maps.shape[:2], rows, columns), maps.shape, *numbers)
        return library.max_pool2d_grad(winners, maps, rows, columns, windows_of(*numbers))

    return gradient


@_computes(MaxPool2dGather)
def _max_pool2d_gather(op, node, library):
    def gather(images, winners, *numbers):
        check_pooled(images.shape, winners.shape, *numbers)
        return pooling.max_pool2d_gather(library, images, winners, windows_of(*numbers))

    return gather


@_computes(DrawWinners2d)
def _draw_winners2d(op, node, library):
    winners_dtype = node.outputs[0].type.dtype

    def draw(images, uniforms, *numbers):
        check_pooled(images.shape, uniforms.shape, *numbers)
        return pooling.draw_winners2d(library, images, uniforms, winners_dtype, windows_of(*numbers))

    return draw


@_computes(AveragePool2d)
def _average_pool2d(op, node, library):
    def pool(images, *numbers):
        check_pool(images.shape, op.ignore_border, *numbers)
        windows = windows_of(*numbers)
        counts = pooled_lengths(images, windows, op.ignore_border)
        return library.average_pool2d(images, counts, windows, op.mode)

    return pool


@_computes(AveragePool2dGrad)
def _average_pool2d_grad(op, node, library):
    def gradient(maps, rows, columns, *numbers):
        check_pooled((*maps.shape[:2], rows, columns), maps.shape, *numbers)
        return library.average_pool2d_grad(maps, rows, columns, windows_of(*numbers), op.mode)

    return gradient


# ------------------------------------------------------------------------- across maps, and processes


@_computes(CrossMapSum)
def _cross_map_sum(op, node, library):
    return lambda images: normalisation.cross_map_sum(library, images, op.size, op.blocked, op.transposed)


@_computes(CrossMapNorm)
def _cross_map_norm(op, node, library):
    return lambda images: normalisation.cross_map_norm(library, images, op.size, op.scale, op.power, op.blocked)


@_computes(CrossMapNormGrad)
def _cross_map_norm_grad(op, node, library):
    def gradient(images, maps):
        check_normalised(images.shape, maps.shape)
        return normalisation.cross_map_norm_grad(library, images, maps, op.size, op.scale, op.power, op.blocked)

    return gradient


@_computes(AllMean)
def _all_mean(op, node, library):
    alone = len(node.outputs) == 1

    def mean(*tensors):
        means = library.all_mean(tensors)
        return means[0] if alone else means

    return mean
