"""PyTensor's PyTorch backend: each Op by ATen's kernels, on the CPU or wherever torch's default device is.

PyTensor's linker compiles functions with ``torch.compile``. To that each Op of ours is one opaque operator, `evaluate`:
ATen has the kernels, and torch's compiler would take a minute to make its own for the pools of a LeNet. Where integers
of an Op are no constants, torch could not tell the shapes of results, and the compiled function is interrupted for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytensor.link.pytorch.dispatch import pytorch_funcify
from pytensor.scalar.basic import EQ, Pow, ScalarOp
from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.geometry import pool_length
from pytensor_convnet.kernels import collectives
from pytensor_convnet.lowering import torch_operations
from pytensor_convnet.lowering.arrays.library import Library
from pytensor_convnet.lowering.arrays.operations import BUILDERS, constant_integers, function_of, tensor_count
from pytensor_convnet.lowering.arrays.pooling import Windows, corners
from pytensor_convnet.ops import AllMean

_WIDER = {torch.bool: torch.uint8, torch.uint16: torch.int32, torch.uint32: torch.int64}
"""For dtypes that torch does not pool, some that hold the same numbers."""

_LEAST_CHANNELS = 16
"""From so many channels on, ATen pools maxima faster channels-last, copies included: it fills vectors with channels."""


class _Torch(Library):
    """Torch's arrays, with ATen's pools where windows are such as these know."""

    correlate2d = staticmethod(torch_operations.correlate2d)
    correlate2d_input_grad = staticmethod(torch_operations.correlate2d_input_grad)
    correlate2d_filter_grad = staticmethod(torch_operations.correlate2d_filter_grad)
    locally_connected2d = staticmethod(torch_operations.locally_connected2d)
    locally_connected2d_input_grad = staticmethod(torch_operations.locally_connected2d_input_grad)
    locally_connected2d_filter_grad = staticmethod(torch_operations.locally_connected2d_filter_grad)
    all_mean = staticmethod(collectives.all_mean)

    def integers(self, value, name):
        return value.tolist()

    def where(self, condition, x, y):
        return torch.where(condition, x, y)

    def isfinite(self, tensor):
        return torch.isfinite(tensor)

    def arange(self, count):
        return torch.arange(count, dtype=torch.int32)

    def cast(self, tensor, dtype):
        return tensor.to(getattr(torch, dtype))

    def lowest(self, tensor):
        return -torch.inf if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min

    def cut(self, tensor, axis, start, length, outside):
        after = [0, 0] * (tensor.ndim - 1 - axis)
        return F.pad(tensor, [*after, -start, start + length - tensor.shape[axis]], value=outside)

    def repeat(self, tensor, axis, times):
        return torch.repeat_interleave(tensor, times, axis)

    def pick(self, planes, places):
        return torch.gather(planes, 2, places.long())

    def scatter(self, values, places, pixels):
        return values.new_zeros((*values.shape[:2], pixels)).scatter_add_(2, places.long(), values)

    def max_pool2d(self, images, winners_dtype, counts, windows):
        dtype, (_, channels, *lengths) = images.dtype, images.shape
        if dtype == torch.uint64:
            raise ValueError(
                "input has dtype uint64, which torch cannot compare. Cast it, as by input.astype('int64')."
            )
        images = images.to(_WIDER.get(dtype, dtype))
        aten = _aten_windows(windows, lengths, counts)
        if aten is not None:
            if channels >= _LEAST_CHANNELS and images.is_floating_point():
                images = images.contiguous(memory_format=torch.channels_last)
            maxima, places = torch.ops.aten.max_pool2d_with_indices(images, *aten[:3], [1, 1], aten.ceil_mode)
            maxima, columns, width = maxima.contiguous(), lengths[1], windows[1].window
            if not (maxima != maxima).any():  # of several NaN, ATen lets the last one win
                taps = places.contiguous().int() - corners(self, counts, columns, windows)
                rows = torch.div(taps, columns, rounding_mode="trunc")
                return maxima.to(dtype), self.cast(torch.sub(taps, rows, alpha=columns - width), winners_dtype)
        maxima, winners = super().max_pool2d(images, winners_dtype, counts, windows)
        return maxima.to(dtype), winners

    def average_pool2d(self, images, counts, windows, mode):
        aten = _aten_windows(windows, images.shape[2:], counts)
        if aten is None:
            return super().average_pool2d(images, counts, windows, mode)
        return torch.ops.aten.avg_pool2d(images, *aten, *_DIVISORS[mode])

    def average_pool2d_grad(self, maps, rows, columns, windows, mode):
        aten = _aten_windows(windows, (rows, columns), maps.shape[2:])
        if aten is None:
            return super().average_pool2d_grad(maps, rows, columns, windows, mode)
        images = maps.new_empty((*maps.shape[:2], rows, columns))  # only its shape is read
        return torch.ops.aten.avg_pool2d_backward(maps, images, *aten, *_DIVISORS[mode])


_DIVISORS = {"sum": (True, 1), "average_inc_pad": (True, None), "average_exc_pad": (False, None)}
"""By mode, whether ATen counts padding, and by what it divides instead."""


class _AtenWindows(NamedTuple):
    """Windows as ATen's pools take them."""

    window: list[int]
    stride: list[int]
    padding: list[int]
    ceil_mode: bool


def _aten_windows(windows: Windows, lengths: Sequence[int], counts: Sequence[int]) -> _AtenWindows | None:
    """Windows on images of ``lengths``, if ATen would find ``counts`` of them.

    It pads both ends of an axis alike, and by half a window at most.
    """
    axes = list(zip(windows, lengths, counts))
    if any(a.before != a.after or 2 * a.before > a.window or a.window > length for a, length, _ in axes):
        return None
    for ignore_border in (True, False):
        if all(n == pool_length(length, *a[1:], ignore_border) for a, length, n in axes):
            window, stride, padding = ([axis[i] for axis in windows] for i in (1, 2, 3))
            return _AtenWindows(window, stride, padding, not ignore_border)
    return None


class _Known(NamedTuple):
    """An Op whose shapes follow from those of its tensors."""

    compute: Callable[..., Any]
    shapes: Callable[..., Any]
    dtypes: list[torch.dtype]


_KNOWN: dict[str, _Known] = {}
"""What `evaluate` computes, by name."""


@custom_op("pytensor_convnet::evaluate", mutates_args=())
def evaluate(tensors: list[Tensor], name: str) -> list[Tensor]:
    """The outputs of the Op of that name."""
    results = _KNOWN[name].compute(*tensors)
    return [result.contiguous() for result in (results if isinstance(results, list | tuple) else [results])]


@evaluate.register_fake
def _(tensors: list[Tensor], name: str) -> list[Tensor]:
    op = _KNOWN[name]
    # Of tensors that do not fit `evaluate` tells when it runs; here their shapes only must not be impossible.
    shapes = [[max(length, 0) for length in shape] for shape in op.shapes([tuple(x.shape) for x in tensors])]
    return [torch.empty(shape, dtype=dtype, device=tensors[0].device) for shape, dtype in zip(shapes, op.dtypes)]


@evaluate.register_vmap
def _(info: Any, in_dims: Any, tensors: list[Tensor], name: str) -> tuple[list[Tensor], list[int]]:
    axes, _ = in_dims
    results = [
        evaluate([x if axis is None else x.select(axis, i) for x, axis in zip(tensors, axes)], name)
        for i in range(info.batch_size)
    ]
    return [torch.stack(outputs) for outputs in zip(*results)], [0] * len(results[0])


def _funcify(op, node, **kwargs):
    function, integers = function_of(op, node, _Torch()), constant_integers(node)
    if None in integers:
        return torch.compiler.disable(function)
    count, alone = tensor_count(node), len(node.outputs) == 1
    dtypes = [output.type.dtype for output in node.outputs]
    name = repr((type(op).__name__, op._props(), [x.type.dtype for x in node.inputs[:count]], dtypes, integers))
    shapes = (lambda of_inputs: of_inputs) if isinstance(op, AllMean) else partial(_shapes, op, integers)
    _KNOWN[name] = _Known(lambda *tensors: function(*tensors, *integers), shapes, [getattr(torch, x) for x in dtypes])

    def call(*values):
        results = evaluate(values[:count], name)
        return results[0] if alone else results

    return call


def _shapes(op, integers, of_inputs):
    return op.output_shapes(of_inputs, *integers)


for _op_type in BUILDERS:
    pytorch_funcify.register(_op_type)(_funcify)

# PyTensor looks torch's functions up by NumPy's names, and finds one that compares tensors as wholes, or none.
for _scalar_op, _function in ((EQ, torch.eq), (Pow, torch.pow)):
    if pytorch_funcify.dispatch(_scalar_op) is pytorch_funcify.dispatch(ScalarOp):
        pytorch_funcify.register(_scalar_op)(lambda op, function=_function, **kwargs: function)
