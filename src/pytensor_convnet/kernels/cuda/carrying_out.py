"""How each of the `methods` is carried out: what is prepared, packed and launched, and in which format it comes."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch

from pytensor_convnet.kernels.cuda import cudnn
from pytensor_convnet.kernels.cuda.copying import (
    Copy,
    aligned,
    boxable,
    change_format,
    launch_copy,
    preparation,
    prepare,
)
from pytensor_convnet.kernels.cuda.filter_grad_kernel import filter_grad
from pytensor_convnet.kernels.cuda.formats import UNIT, empty, is_wide, unit_of
from pytensor_convnet.kernels.cuda.gather_kernel import gather_correlate
from pytensor_convnet.kernels.cuda.gathering import Gathering, Tables, gathering, stage_taps, tables
from pytensor_convnet.kernels.cuda.magnitudes import LEAST_SAMPLED, Bound, largest_magnitudes
from pytensor_convnet.kernels.cuda.methods import (
    Cudnn,
    FilterGrad,
    Gather,
    Method,
    SlidingShare,
    Task,
    Unrolled,
    Window,
    WindowShare,
)
from pytensor_convnet.kernels.cuda.packing import pack
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import sliding_filter_grad
from pytensor_convnet.kernels.cuda.unrolling import Unrolling, rolled, unroll, unroll_maps, unrolling
from pytensor_convnet.kernels.cuda.window_grad_kernel import (
    WindowGradPlan,
    window_filter_grad,
    window_grad_plan,
)
from pytensor_convnet.kernels.cuda.window_kernel import WindowPlan, window_correlate, window_plan


def carry_out(task: Task, method: Method, *operands: torch.Tensor) -> torch.Tensor:
    """Compute a pass by a method.

    Parameters
    ----------
    operands : tensor
        Images and filters; filters and maps; or images and maps.
    """
    if task.device.type == "cuda" and task.device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(task.device):  # Triton launches on the current one
            return carry_out(task, method, *operands)
    if isinstance(method, Cudnn):
        return _by_cudnn(task, method, *operands)
    if isinstance(method, Unrolled):
        return _unrolled(task, method, *operands)
    if isinstance(method, FilterGrad):
        return _filter_grad(task, method, *operands)
    if isinstance(method, WindowShare):
        return _window_share(task, method, *operands)
    filters, source = operands if task.name == "correlate2d_input_grad" else reversed(operands)
    if isinstance(method, Window):
        return _window(task, method, filters, source)
    return gather(task, method, filters, source)


def _by_cudnn(task: Task, method: Cudnn, *operands: torch.Tensor) -> torch.Tensor:
    geometry, layout = task.geometry, method.format
    pass_: Any = getattr(cudnn, task.name)
    if task.name == "correlate2d":
        images, filters = operands
        result = pass_(geometry, change_format(images, layout), filters, layout, task.precision)
    elif task.name == "correlate2d_input_grad":
        filters, maps = operands
        if method.as_forward:
            pass_ = cudnn.correlate2d_input_grad_as_forward
        result = pass_(geometry, filters, change_format(maps, layout), layout, task.precision)
    else:
        images, maps = operands
        result = pass_(geometry, change_format(images, layout), change_format(maps, layout), layout, task.precision)
        return change_format(result, task.filter_format)
    return change_format(result, task.formats[-1])


def gather(
    task: Task, method: Gather, filters: torch.Tensor, source: torch.Tensor, bound: Bound | None = None
) -> torch.Tensor:
    """Forward pass or input gradient from a source, of whose magnitudes a bound may be known."""
    magnitudes = None
    if method.product == "float16":
        searched, factor = bound or (source, 1.0)
        copied = bound is None, False
        magnitudes = largest_magnitudes(searched, dense(filters), factors=(factor, 1.0), copied=copied)
    planes, copy = preparation(source, method.product) if method.prepared else (source[None], None)
    return gather_from(task, method, filters, planes, magnitudes, copy)


def gather_from(
    task: Task, method: Gather, filters: torch.Tensor, planes: torch.Tensor, magnitudes: torch.Tensor | None,
    copy: Copy | None = None,
) -> torch.Tensor:  # fmt: skip
    """Forward pass or input gradient from the planes of a source, prepared where the method says so, or by ``copy``."""
    return gather_launched(task, method, filters, planes, magnitudes, copy)()


def gather_launched(
    task: Task, method: Gather, filters: torch.Tensor, planes: torch.Tensor, magnitudes: torch.Tensor | None,
    copy: Copy | None,
) -> Callable[[], torch.Tensor]:  # fmt: skip
    """What gives the result of `gather_from`, once filters are packed and the source is copied."""
    geometry, source = task.geometry, planes[0]
    gradient = task.name == "correlate2d_input_grad"
    plan = gathering(geometry, gradient, method.patch, method.joined, method.channel_multiple)
    target = empty(plan.target_shape, method.target_format, task.dtype, source.device)
    wide = is_wide(source, target)
    unit = UNIT if method.prepared else unit_of(source)
    found = tables_for(plan, source, unit, wide)
    columns = max(UNIT, method.blocks.outputs)
    packed = pack(filters, plan, found.taps, gradient, geometry.flip, method.product, magnitudes, columns, copy)

    def result() -> torch.Tensor:
        gather_correlate(planes, packed, plan, found, target, method.product, method.blocks, unit, wide)
        return change_format(target, task.formats[-1])

    return result


def plan_of_windows(task: Task, method: Window) -> tuple[Gathering, WindowPlan | None]:
    """What a method gathers, and how; None where it does not fit into a multiprocessor."""
    plan = gathering(task.geometry, task.name == "correlate2d_input_grad", method.patch)
    sampled = method.product == "float16" and not method.prepared and prod(plan.source_shape) >= LEAST_SAMPLED
    flipped = task.geometry.flip and not method.blocks.packed
    return plan, window_plan(plan, method.blocks, method.product, sampled, method.prepared, flipped)


def _window(task: Task, method: Window, filters: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    magnitudes = None
    if method.product == "float16":
        magnitudes = largest_magnitudes(source, dense(filters), copied=(True, False))
    return window_launched(task, method, filters, boxable(source), magnitudes, None, None)()


def window_launched(
    task: Task, method: Window, filters: torch.Tensor, source: torch.Tensor, magnitudes: torch.Tensor | None,
    copy: Copy | None, of_copy: torch.Tensor | None,
) -> Callable[[], torch.Tensor]:  # fmt: skip
    """What gives the forward pass or input gradient over windows, once filters are packed.

    The source is `boxable`, and prepared where the method says so; it need not be there yet. A ``copy`` of something
    else, that belongs to a `preparation` for the same product, is done by the same launch, or by one of its own; see
    `packing.pack`.
    """
    plan, how = plan_of_windows(task, method)
    assert how is not None
    read: Any
    if method.blocks.packed:
        taps = stage_taps(plan, method.blocks.channels, how.stage.rows, method.blocks.places, source.device)
        read = pack(
            filters, plan, taps, task.name == "correlate2d_input_grad", task.geometry.flip, method.product, magnitudes,
            how.stage.outputs, copy, how.stage.rows, of_copy,
        )  # fmt: skip
    else:
        launch_copy(copy, method.product, of_copy)
        read = aligned(filters)
    target = empty(plan.target_shape, "batch_last", task.dtype, source.device)

    def result() -> torch.Tensor:
        window_correlate(source, read, how, target)
        return change_format(target, task.formats[-1])

    return result


def plan_of_window_share(task: Task, method: WindowShare) -> WindowGradPlan | None:
    """How a method computes; None where it does not fit into a multiprocessor."""
    return window_grad_plan(task.geometry, method.blocks, method.product)


def _window_share(task: Task, method: WindowShare, images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    if method.product == "float16":
        image_planes, map_planes, magnitudes = _prepare_both(images, maps, method.product)
        return window_share_from(task, method, image_planes[0], map_planes[0], magnitudes)
    return window_share_from(task, method, boxable(images), boxable(maps), None)


def window_share_from(
    task: Task, method: WindowShare, images: torch.Tensor, maps: torch.Tensor, magnitudes: torch.Tensor | None
) -> torch.Tensor:
    """The filter gradient over windows of images and of maps, both `boxable`, of float16 prepared."""
    how = plan_of_window_share(task, method)
    assert how is not None
    filters = empty(task.geometry.filters, task.filter_format, task.dtype, images.device)
    window_filter_grad(images, maps, how, filters, magnitudes)
    return filters


def unrolling_of(task: Task) -> Unrolling:
    """How its source is unrolled."""
    return unrolling(task.geometry, task.name == "correlate2d_input_grad")


def unrolled_task(task: Task) -> Task:
    """The pass that has columns in the place of images."""
    return replace(task, geometry=unrolling_of(task).geometry, formats=("batch_last",) * len(task.formats))


def _unrolled(task: Task, method: Unrolled, *operands: torch.Tensor) -> torch.Tensor:
    plan, inner = unrolling_of(task), unrolled_task(task)
    if task.name == "correlate2d_filter_grad":
        images, maps = operands
        return carry_out(inner, method.method, unroll(images, plan), unroll_maps(maps, plan))
    if task.name == "correlate2d":
        images, filters = operands
        target = carry_out(inner, method.method, unroll(images, plan), filters)
        return change_format(rolled(target, task.geometry.maps), task.formats[-1])
    filters, maps = operands
    target = carry_out(inner, method.method, filters, unroll(maps, plan))
    return change_format(rolled(target, task.geometry.images), task.formats[-1])


def _filter_grad(task: Task, method: FilterGrad, images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    if method.prepared:
        return filter_grad_from(task, method, *_prepare_both(images, maps, method.product))
    return filter_grad_from(task, method, images[None], maps[None], None)


def _prepare_both(
    images: torch.Tensor, maps: torch.Tensor, product: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The planes of both operands of a filter gradient, and their magnitudes, of float16."""
    if product != "float16":
        return prepare(images, product, None), prepare(maps, product, None), None
    magnitudes = largest_magnitudes(images, maps, copied=(True, True))
    return prepare(images, product, magnitudes[0]), prepare(maps, product, magnitudes[1]), magnitudes


def filter_grad_from(
    task: Task, method: FilterGrad, image_planes: torch.Tensor, map_planes: torch.Tensor,
    magnitudes: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """The filter gradient from the planes of images and maps, prepared where the method says so."""
    geometry, images, maps = task.geometry, image_planes[0], map_planes[0]
    filters = empty(geometry.filters, task.filter_format, task.dtype, images.device)
    wide = is_wide(images, maps)
    units = (UNIT, UNIT) if method.prepared else (unit_of(images), unit_of(maps))
    if isinstance(method, SlidingShare):
        sliding_filter_grad(
            image_planes, map_planes, gathering(geometry, False), filters, geometry.flip, method.product, magnitudes,
            method.blocks, units, wide,
        )  # fmt: skip
        return filters
    plan = gathering(geometry, False, method.patch)
    found = tables_for(plan, images, units[0], wide)
    filter_grad(
        image_planes, map_planes, plan, found, filters, geometry.flip, method.product, magnitudes, method.blocks, units,
        method.prepared, wide,
    )  # fmt: skip
    return filters


def tables_for(plan: Gathering, source: torch.Tensor, unit: int, wide: bool) -> Tables:
    """The tables of a gathering from such a source."""
    channel_stride, row_stride, column_stride = (stride // unit for stride in source.stride()[1:])
    return tables(plan, channel_stride, row_stride, column_stride, wide, source.device)


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose elements lie in memory without holes, in any order."""
    step = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape)):
        if length != 1 and stride != step:
            return tensor.contiguous()
        step *= length
    return tensor
