"""Pooling by the Triton kernels; gradients of averages by torch, whose compiler makes them part of what reads them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytensor.graph.basic import Apply

from pytensor_convnet.geometry import overlap
from pytensor_convnet.lowering import torch_operations as plain
from pytensor_convnet.lowering.cuda.base import Target, torch_dtype
from pytensor_convnet.lowering.cuda.formats import batch_last_by_torch, format_of, formatted
from pytensor_convnet.lowering.cuda.ours import kernel_results, lower_ours, shapes_of, windows_of
from pytensor_convnet.ops import (
    AveragePool2d,
    AveragePool2dGrad,
    DrawWinners2d,
    MaxPool2d,
    MaxPool2dGather,
    MaxPool2dGrad,
    MaxPool2dMaxima,
    RectifiedAveragePool2d,
    RectifiedAveragePool2dGrad,
)

MOST_FUSED_TAPS = 25
"""Torch's compiler fuses the gradient of average pooling of windows up to this size."""


def _gpu_max_pool(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(images: Any, *numbers: Any) -> Any:
        images = formatted(target.tensor(images))
        shape, *_ = shapes_of(op, [images], numbers)
        format = format_of(shape[0])
        maxima = (shape, images.dtype, format)
        arguments = (*windows_of(numbers), op.ignore_border, format)
        if isinstance(op, MaxPool2dMaxima):
            return kernel_results("max_pool2d_maxima", [images], arguments, [maxima])
        winners = torch_dtype(node.outputs[1])
        return kernel_results("max_pool2d", [images], (str(winners), *arguments), [maxima, (shape, winners, format)])

    return run


def _gpu_max_pool_grad(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(winners: Any, maps: Any, rows: Any, columns: Any, *numbers: Any) -> Any:
        winners, maps = formatted(target.tensor(winners)), formatted(target.tensor(maps))
        lengths = (int(rows), int(columns))
        format = format_of(maps.shape[0])
        results = [((*maps.shape[:2], *lengths), maps.dtype, format)]
        return kernel_results("max_pool2d_grad", [winners, maps], (*lengths, *windows_of(numbers), format), results)

    return run


def _gpu_max_pool_gather(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(images: Any, winners: Any, *numbers: Any) -> Any:
        images, winners = formatted(target.tensor(images)), formatted(target.tensor(winners))
        format = format_of(images.shape[0])
        results = [(winners.shape, images.dtype, format)]
        return kernel_results("max_pool2d_gather", [images, winners], (*windows_of(numbers), format), results)

    return run


def _gpu_average_pool(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(images: Any, *numbers: Any) -> Any:
        images = formatted(target.tensor(images))
        [shape] = shapes_of(op, [images], numbers)
        format = format_of(shape[0])
        arguments = (*windows_of(numbers), op.ignore_border, op.mode, format)
        return kernel_results("average_pool2d", [images], arguments, [(shape, images.dtype, format)])

    return run


def _fused_average(op: Any, maps: torch.Tensor, numbers: Sequence[Any]) -> list[Any] | None:
    """How torch's gradient of average pooling is called, which its compiler makes part of what reads it.

    None where nothing is compiled, and where torch has other windows than these.
    """
    window, stride, ((top, bottom), (left, right)) = windows_of(numbers)
    traced = type(maps) is not torch.Tensor
    if not (traced and op.ignore_border and (top, left) == (bottom, right) and math.prod(window) <= MOST_FUSED_TAPS):
        return None
    if 2 * top > window[0] or 2 * left > window[1]:
        return None
    divisor = 1 if op.mode == "sum" else None
    return [list(window), list(stride), [top, left], False, op.mode == "average_inc_pad", divisor]


def _gpu_average_pool_grad(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(maps: Any, rows: Any, columns: Any, *numbers: Any) -> Any:
        maps, lengths = target.tensor(maps), (int(rows), int(columns))
        fused = _fused_average(op, maps, numbers)
        if fused is not None:
            images = maps.new_empty((*maps.shape[:2], *lengths))  # only its shape is read
            return batch_last_by_torch(torch.ops.aten.avg_pool2d_backward(maps, images, *fused))
        maps, format = formatted(maps), format_of(maps.shape[0])
        results = [((*maps.shape[:2], *lengths), maps.dtype, format)]
        return kernel_results("average_pool2d_grad", [maps], (*lengths, *windows_of(numbers), op.mode, format), results)

    return run


def _gpu_rectified_average_pool(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(images: Any, biases: Any, *numbers: Any) -> Any:
        images, biases = formatted(target.tensor(images)), target.tensor(biases).contiguous()
        [shape] = shapes_of(op, [images, biases], numbers)
        format = format_of(shape[0])
        arguments = (*windows_of(numbers), op.ignore_border, op.mode, format)
        return kernel_results("rectified_average_pool2d", [images, biases], arguments, [(shape, images.dtype, format)])

    return run


def _gpu_rectified_average_pool_grad(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    def run(images: Any, biases: Any, maps: Any, *numbers: Any) -> Any:
        images, biases = formatted(target.tensor(images)), target.tensor(biases).contiguous()
        maps = formatted(target.tensor(maps), images.dtype)
        format, windows = format_of(images.shape[0]), windows_of(numbers)
        summed = torch.float64 if images.dtype == torch.float64 else torch.float32
        results = [(images.shape, images.dtype, format), (biases.shape, summed, "")]
        tensors = [images, biases, maps]
        gradient, sums = kernel_results("rectified_average_pool2d_grad", tensors, (*windows, op.mode, format), results)
        gradient._bound = maps, float(overlap(*windows[:2]))
        return gradient, sums.to(torch_dtype(node.outputs[1]))

    return run


def _gpu_draw_winners(op: Any, node: Apply, target: Target) -> Callable[..., Any]:
    dtype = torch_dtype(node.outputs[0])

    def run(images: Any, uniforms: Any, *numbers: Any) -> Any:
        images = target.tensor(images)
        return plain.draw_winners2d(images, target.tensor(uniforms, images.dtype), dtype, *windows_of(numbers))

    return run


lower_ours(MaxPool2d, _gpu_max_pool)
lower_ours(MaxPool2dMaxima, _gpu_max_pool)
lower_ours(MaxPool2dGrad, _gpu_max_pool_grad)
lower_ours(MaxPool2dGather, _gpu_max_pool_gather)
lower_ours(AveragePool2d, _gpu_average_pool)
lower_ours(AveragePool2dGrad, _gpu_average_pool_grad)
lower_ours(RectifiedAveragePool2d, _gpu_rectified_average_pool)
lower_ours(RectifiedAveragePool2dGrad, _gpu_rectified_average_pool_grad)
lower_ours(DrawWinners2d, _gpu_draw_winners)
