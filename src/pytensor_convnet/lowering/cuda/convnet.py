"""Correlations, pooled or not, and normalisation: by the Triton kernels where these run, else by the CPU's.

Images and maps are brought to one format first; see `formats`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pytensor.graph.basic import Apply

from pytensor_convnet.lowering import torch_operations as plain
from pytensor_convnet.lowering.cuda.base import Lowering, Target, has_kernels, integers, lower, torch_dtype
from pytensor_convnet.lowering.cuda.formats import format_of, formatted, formatted_filters
from pytensor_convnet.lowering.cuda.ours import (
    host_integers,
    kernel_results,
    lower_ours,
    on_the_host,
    shapes_of,
    windows_of,
)
from pytensor_convnet.ops import (
    Correlate2d,
    Correlate2dFilterGrad,
    Correlate2dInputGrad,
    CorrelateMaxPool2d,
    CorrelateMaxPool2dBiasGrad,
    CorrelateMaxPool2dFilterGrad,
    CorrelateMaxPool2dInputGrad,
    CrossMapNorm,
    CrossMapNormGrad,
    CrossMapSum,
    LocallyConnected2d,
    LocallyConnected2dFilterGrad,
    LocallyConnected2dInputGrad,
)

# ------------------------------------------------------------------------------------------ correlation


def _correlation(name: str) -> Callable[[Any, Apply, Target], Callable[..., Any]]:
    """The kernel call of a pass of a correlation; all but the gradient of filters give images."""
    gives_filters = name == "correlate2d_filter_grad"

    def deferred(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
        from pytensor_convnet.lowering.cuda.operators import KernelCall

        dtype = torch_dtype(node.outputs[0])
        working, precision = _working(target, dtype)
        filters = {"correlate2d": 1, "correlate2d_input_grad": 0}.get(name)

        def deferred_call(first: Any, second: Any, *lengths: Any) -> KernelCall:
            tensors = [
                formatted_filters(target.tensor(value), working)
                if position == filters
                else formatted(target.tensor(value), working)
                for position, value in enumerate((first, second))
            ]
            shape, moves = _shape_and_moves(op, tensors, lengths, gives_filters)
            format = "bc01" if gives_filters else format_of(shape[0])
            keywords = {"precision": precision} | ({} if gives_filters else {"memory_format": format})
            finish = (lambda result: result.to(dtype)) if gives_filters else (lambda result: result)
            arguments = (*integers(lengths), *moves)
            return KernelCall(name, tensors, arguments, [(shape, working, format)], keywords, finish=finish)

        return deferred_call

    return deferred


def _working(target: Target, dtype: torch.dtype) -> tuple[torch.dtype, str]:
    """In what dtype, and how precisely, kernels compute."""
    return (torch.bfloat16, "medium") if target.precision == "bf16" else (dtype, target.precision)


def _shape_and_moves(op: Any, tensors: list[torch.Tensor], lengths: Sequence[Any], gives_filters: bool) -> Any:
    """The shape of a pass's result, and how filters move, as the kernels want it."""
    [shape] = shapes_of(op, tensors, [int(length) for length in lengths])
    taps = tuple(shape[-2:]) if gives_filters else op.filter_taps([*tensors, *lengths])
    return shape, _moves(op, taps)


def _lower_pass(op_type: type, name: str, on_gpu: Callable[..., Any] | None) -> None:
    """Register a pass: by a kernel call where there is one, else by torch's operations, or on the host."""
    gives_filters = "filter_grad" in name

    @lower.register(op_type)
    def _lower(op: Any, node: Apply, target: Target) -> Lowering:
        host = host_integers(op, node)
        if not has_kernels(target):
            return Lowering(on_the_host(op, node, target), host)
        dtype = torch_dtype(node.outputs[0])
        if on_gpu is None or dtype == torch.float64:

            def plainly(first: Any, second: Any, *lengths: Any) -> torch.Tensor:
                tensors = [target.tensor(value, dtype) for value in (first, second)]
                _, moves = _shape_and_moves(op, tensors, lengths, gives_filters)
                return getattr(plain, name)(*tensors, *integers(lengths), *moves)

            return Lowering(plainly, host)
        from pytensor_convnet.lowering.cuda.operators import call_together

        deferred = on_gpu(op, node, target)
        function = lambda *values: call_together([deferred(*values)])  # noqa: E731
        return Lowering(function, host, deferred=None if name == "correlate2d" else deferred)


_lower_pass(Correlate2d, "correlate2d", _correlation("correlate2d"))
_lower_pass(Correlate2dInputGrad, "correlate2d_input_grad", _correlation("correlate2d_input_grad"))
_lower_pass(Correlate2dFilterGrad, "correlate2d_filter_grad", _correlation("correlate2d_filter_grad"))
_lower_pass(LocallyConnected2d, "locally_connected2d", None)
_lower_pass(LocallyConnected2dInputGrad, "locally_connected2d_input_grad", None)
_lower_pass(LocallyConnected2dFilterGrad, "locally_connected2d_filter_grad", None)


# ------------------------------------------------------------------------- correlation and pooling in one


def _gpu_pooled_correlation(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    dtypes = [torch_dtype(output) for output in node.outputs]
    working, precision = _working(target, dtypes[0])

    def run(images: Any, filters: Any, biases: Any, *numbers: Any) -> Any:
        images = formatted(target.tensor(images), working)
        filters = formatted_filters(target.tensor(filters), working)
        biases = target.tensor(biases, working).contiguous()
        shape, _ = shapes_of(op, [images, filters, biases], numbers)
        format = format_of(shape[0])
        moves = _moves(op.correlation, filters.shape[2:])
        windows = (*windows_of(numbers), op.pooling.ignore_border)
        results = [(shape, working, format), (shape, dtypes[1], format)]
        if working == torch.float64:
            maps = formatted(plain.correlate2d(images, filters, *moves))
            maxima, winners = kernel_results("max_pool2d", [maps], (str(dtypes[1]), *windows, format), results)
            return plain.activated(maxima + biases[:, None, None], winners, op.activation)
        keywords = {"activation": op.activation, "precision": precision, "memory_format": format}
        tensors, arguments = [images, filters, biases], (str(dtypes[1]), *moves, *windows)
        return kernel_results(
            "correlate2d_max_pool2d", tensors, arguments, results, keywords=keywords, named=["biases"]
        )

    return run


def _pooled_gradient(gives: str) -> Callable[[Any, Apply, Target], Callable[..., Any]]:
    """The kernel call of a gradient of a pooled correlation."""
    gives_filters = gives == "filter_grad"

    def deferred(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
        from pytensor_convnet.lowering.cuda.operators import KernelCall

        dtype = torch_dtype(node.outputs[0])
        working, precision = _working(target, dtype)

        def deferred_call(tensor: Any, winners: Any, maps: Any, *numbers: Any) -> KernelCall:
            tensor, maps = target.tensor(tensor), formatted(target.tensor(maps), working)
            tensor = formatted(tensor, working) if gives_filters else formatted_filters(tensor, working)
            tensors = [tensor, formatted(winners), maps]
            lengths, windows = integers(numbers[:4]), windows_of(numbers[4:])
            [shape] = shapes_of(op, tensors, [*lengths, *numbers[4:]])
            moves = _moves(op.correlation, lengths[:2] if gives_filters else tensor.shape[2:])
            format = "bc01" if gives_filters else format_of(shape[0])
            keywords = {"precision": precision} | ({} if gives_filters else {"memory_format": format})
            finish = (lambda result: result.to(dtype)) if gives_filters else (lambda result: result)
            arguments = (*lengths, *moves, *windows)
            name = f"correlate2d_max_pool2d_{gives}"
            return KernelCall(name, tensors, arguments, [(shape, working, format)], keywords, finish=finish)

        return deferred_call

    return deferred


def _plain_pooled_gradient(op: Any, node: Apply, target: Target, gives: str) -> Callable[..., Any]:
    """The same in float64: the gradient of the pool, then that of the correlation by torch's operations."""

    def run(tensor: Any, winners: Any, maps: Any, *numbers: Any) -> Any:
        tensor, winners, maps = (target.tensor(value) for value in (tensor, winners, maps))
        lengths = integers(numbers[:4])
        moves = _moves(op.correlation, lengths[:2] if gives == "filter_grad" else tensor.shape[2:])
        full, format = (*maps.shape[:2], *lengths[2:]), format_of(maps.shape[0])
        arguments = (*lengths[2:], *windows_of(numbers[4:]), format)
        pooled = [formatted(winners), formatted(maps)]
        [scattered] = kernel_results("max_pool2d_grad", pooled, arguments, [(full, maps.dtype, format)])
        return getattr(plain, f"correlate2d_{gives}")(tensor, scattered, *lengths[:2], *moves)

    return run


def _pooled_bias_gradient(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    """The kernel call of the gradient of a pooled correlation for its biases."""
    from pytensor_convnet.lowering.cuda.operators import KernelCall

    dtype = torch_dtype(node.outputs[0])

    def deferred_call(winners: Any, maps: Any) -> KernelCall:
        maps = target.tensor(maps)
        summed = torch.float64 if maps.dtype == torch.float64 else torch.float32
        results: list[Any] = [((int(maps.shape[1]),), summed, "")]
        tensors = [formatted(maps), formatted(target.tensor(winners))]
        return KernelCall("sum_over_pixels", tensors, (), results, finish=lambda sums: sums.to(dtype))

    return deferred_call


def _moves(correlation: Any, taps: Sequence[int]) -> tuple[Any, ...]:
    """How filters of ``taps`` (rows, columns) move, as the kernels want it."""
    padding = correlation.resolved_padding(*taps)
    return correlation.stride, padding, correlation.dilation, correlation.groups, correlation.flip


def _lower_pooled_gradient(op_type: type, on_gpu: Callable[..., Any], plainly: Callable[..., Any] | None) -> None:
    """Register a gradient: by a kernel call, in float64 by ``plainly`` where that is given, or on the host."""

    @lower.register(op_type)
    def _lower(op: Any, node: Apply, target: Target) -> Lowering:
        host = host_integers(op, node)
        if not has_kernels(target):
            return Lowering(on_the_host(op, node, target), host)
        if plainly is not None and torch_dtype(node.outputs[0]) == torch.float64:
            return Lowering(plainly(op, node, target), host)
        from pytensor_convnet.lowering.cuda.operators import call_together

        deferred = on_gpu(op, node, target)
        return Lowering(lambda *values: call_together([deferred(*values)]), host, deferred=deferred)


lower_ours(CorrelateMaxPool2d, _gpu_pooled_correlation)
for _op_type, _gives in ((CorrelateMaxPool2dInputGrad, "input_grad"), (CorrelateMaxPool2dFilterGrad, "filter_grad")):
    _lower_pooled_gradient(_op_type, _pooled_gradient(_gives), partial(_plain_pooled_gradient, gives=_gives))
_lower_pooled_gradient(CorrelateMaxPool2dBiasGrad, _pooled_bias_gradient, None)


# ---------------------------------------------------------------------------------------- normalisation


def _gpu_cross_map_norm(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    name = "cross_map_norm" if isinstance(op, CrossMapNorm) else "cross_map_norm_grad"

    def run(*values: Any) -> Any:
        tensors = [formatted(target.tensor(value)) for value in values]
        tensors = [tensor.to(tensors[0].dtype) for tensor in tensors]
        shape, format = tensors[0].shape, format_of(tensors[0].shape[0])
        arguments = (op.size, op.scale, op.power, op.blocked, format)
        return kernel_results(name, tensors, arguments, [(shape, tensors[0].dtype, format)])

    return run


def _gpu_cross_map_sum(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    return lambda images: plain.cross_map_sum(target.tensor(images), op.size, op.blocked, op.transposed)


lower_ours(CrossMapNorm, _gpu_cross_map_norm)
lower_ours(CrossMapNormGrad, _gpu_cross_map_norm)
lower_ours(CrossMapSum, _gpu_cross_map_sum)
