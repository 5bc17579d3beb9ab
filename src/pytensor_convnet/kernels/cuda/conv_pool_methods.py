"""The ways to compute a correlation with max pooling, and its gradients, as plain values; how each is carried out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pytensor_convnet.geometry import overlap
from pytensor_convnet.kernels.cuda import correlation, max_pooling
from pytensor_convnet.kernels.cuda.carrying_out import (
    dense,
    filter_grad_from,
    gather_from,
    tables_for,
    window_launched,
    window_share_from,
)
from pytensor_convnet.kernels.cuda.conv_pool_grad_kernel import PoolGradBlocks, pooled_filter_grad
from pytensor_convnet.kernels.cuda.conv_pool_kernel import PoolBlocks, correlate_max_pool
from pytensor_convnet.kernels.cuda.copying import (
    Copy,
    aligned,
    boxable,
    boxable_preparation,
    change_format,
    launch_copy,
    preparation,
    prepare,
)
from pytensor_convnet.kernels.cuda.formats import UNIT, empty, is_wide, unit_of
from pytensor_convnet.kernels.cuda.gathering import gathering
from pytensor_convnet.kernels.cuda.magnitudes import largest_magnitudes
from pytensor_convnet.kernels.cuda.max_pooling_grad import max_pool2d_grad
from pytensor_convnet.kernels.cuda.methods import FilterGrad, Gather, Pair, Task, Window, WindowShare
from pytensor_convnet.kernels.cuda.pool_plans import Windows
from pytensor_convnet.kernels.cuda.pool_window_grad_kernel import (
    add_pooled_shares,
    pool_window_grad_plan,
    pooled_window_shares,
)
from pytensor_convnet.kernels.cuda.pool_window_kernel import (
    PoolWindowBlocks,
    PoolWindowPlan,
    pool_window_plan,
    pooled_windows,
)
from pytensor_convnet.kernels.cuda.spreading import spread
from pytensor_convnet.kernels.cuda.streams import both
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks, WindowGradPlan


@dataclass(frozen=True)
class PoolTask(Task):
    """A pass of a pooled correlation; see `methods.Task`.

    Attributes
    ----------
    name : {'correlate2d_max_pool2d', 'correlate2d_max_pool2d_input_grad', '..._filter_grad', '..._grads'}
    windows : Windows
        That slide over the maps.
    activation : str
    winners : torch dtype
    """

    windows: Windows
    activation: str
    winners: torch.dtype


@dataclass(frozen=True)
class PoolGather:
    """The forward pass by `conv_pool_kernel`.

    Attributes
    ----------
    prepared : bool
        Whether images are brought to the product's dtype, batch innermost, first. float16 needs it.
    product : str
    blocks : PoolBlocks
    """

    prepared: bool
    product: str
    blocks: PoolBlocks


@dataclass(frozen=True)
class PoolWindow:
    """The forward pass by `pool_window_kernel`; for float16 images are prepared."""

    product: str
    blocks: PoolWindowBlocks


@dataclass(frozen=True)
class PoolShare:
    """The filter gradient by `conv_pool_grad_kernel`, of images as they are or ``prepared``."""

    prepared: bool
    product: str
    blocks: PoolGradBlocks


@dataclass(frozen=True)
class PoolWindowShare:
    """The filter gradient by `pool_window_grad_kernel`; for float16 images are prepared, and maps if ``prepared``.

    Attributes
    ----------
    spreading : int
        Threads of a program that spread.
    """

    product: str
    prepared: bool
    blocks: WindowGradBlocks
    spreading: int


@dataclass(frozen=True)
class Spread:
    """Gradients from spread maps, which `spreading.spread` writes, or the filter gradient's `PoolWindowShare`.

    The filter gradient alone may do without. Beside a `PoolWindowShare` the input gradient is a `Window`.
    """

    input: Gather | Window | None
    filters: FilterGrad | WindowShare | PoolShare | PoolWindowShare | None


def carry_out(task: PoolTask, method: Any, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Compute a pass by a method.

    Parameters
    ----------
    operands : tensor
        Images, filters and biases; or those of images and filters that the gradients need, winners, pooled maps.

    Returns
    -------
    tuple of tensor
        Maxima and winners, or the gradients asked for.
    """
    if task.device.type == "cuda" and task.device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(task.device):  # Triton launches on the current one
            return carry_out(task, method, *operands)
    if task.name == "correlate2d_max_pool2d":
        return _forward_pair(task, *operands) if isinstance(method, Pair) else _forward(task, method, *operands)
    images = filters = None
    *sources, winners, maps = operands
    if task.name.endswith("input_grad"):
        [filters] = sources
    elif task.name.endswith("filter_grad"):
        [images] = sources
    else:
        images, filters = sources
    if isinstance(method, Pair):
        return _gradient_pair(task, images, filters, winners, maps)
    maps, winners = change_format(maps, "batch_last"), change_format(winners, "batch_last")
    return _gradients(task, method, images, filters, winners, maps)


def _moves(task: PoolTask) -> tuple[Any, Any, Any, int, bool]:
    geometry = task.geometry
    return geometry.stride, geometry.padding, geometry.dilation, geometry.groups, geometry.flip


# ----------------------------------------------------------------------------------------------- forward


def _forward_pair(task: PoolTask, images, filters, biases) -> tuple[torch.Tensor, torch.Tensor]:
    format = task.formats[-1]
    maps = correlation.correlate2d(images, filters, *_moves(task), precision=task.precision, memory_format=format)
    maxima, winners = _empty_results(task, format)
    max_pooling.launch(maps, maxima, winners, task.windows, format, biases=biases, activation=task.activation)
    return maxima, winners


def _empty_results(task: PoolTask, format: str) -> tuple[torch.Tensor, torch.Tensor]:
    geometry, windows = task.geometry, task.windows
    shape = geometry.images[0], geometry.filters[0], windows.out_rows, windows.out_columns
    return empty(shape, format, task.dtype, task.device), empty(shape, format, task.winners, task.device)


def plan_of_pool_window(task: PoolTask, method: PoolWindow) -> PoolWindowPlan | None:
    """How a method computes; None where it does not fit into a multiprocessor."""
    muting = task.activation == "muting_relu"
    return pool_window_plan(task.geometry, task.windows, method.blocks, method.product, muting)


def _forward(
    task: PoolTask, method: PoolGather | PoolWindow, images, filters, biases
) -> tuple[torch.Tensor, torch.Tensor]:
    geometry, windows = task.geometry, task.windows
    maxima, winners = _empty_results(task, "batch_last")
    magnitudes = None
    if method.product == "float16":
        magnitudes = largest_magnitudes(images, dense(filters), copied=(True, False))
    if isinstance(method, PoolWindow):
        how = plan_of_pool_window(task, method)
        assert how is not None
        source = boxable(images) if magnitudes is None else prepare(images, method.product, magnitudes[0])[0]
        pooled_windows(source, filters, biases, how, magnitudes, maxima, winners)
        return change_format(maxima, task.formats[-1]), change_format(winners, task.formats[-1])
    planes, unit = _planes(images, method, None if magnitudes is None else magnitudes[0])
    plan = gathering(geometry, False, method.blocks.group)
    wide = is_wide(planes[0], maxima)
    correlate_max_pool(
        planes, filters, biases, plan, tables_for(plan, planes[0], unit, wide), windows, geometry.flip,
        task.activation, maxima, winners, method.product, magnitudes, method.blocks, unit, method.prepared, wide,
    )  # fmt: skip
    return change_format(maxima, task.formats[-1]), change_format(winners, task.formats[-1])


def _planes(images: torch.Tensor, method: PoolGather, magnitudes) -> tuple[torch.Tensor, int]:
    """Images as the kernels read them, and what divides their strides."""
    if method.prepared:
        return prepare(images, method.product, magnitudes), UNIT
    return images[None], unit_of(images)


# --------------------------------------------------------------------------------------------- gradients


def _gradient_pair(task: PoolTask, images, filters, winners, maps) -> tuple[torch.Tensor, ...]:
    windows, geometry = task.windows, task.geometry
    format = task.formats[-1]
    full = max_pool2d_grad(
        winners, maps, windows.rows, windows.columns, windows.window, windows.stride, windows.padding, format
    )
    if images is None:
        rows, columns = geometry.images[2:]
        of_images = correlation.correlate2d_input_grad(
            filters, full, rows, columns, *_moves(task), precision=task.precision, memory_format=format
        )
        return (of_images,)
    if filters is None:
        rows, columns = geometry.filters[2:]
        return (
            correlation.correlate2d_filter_grad(images, full, rows, columns, *_moves(task), precision=task.precision),
        )
    return correlation.correlate2d_grads(
        images, filters, full, *_moves(task), precision=task.precision, memory_format=format
    )


def _gradients(task: PoolTask, method: Spread, images, filters, winners, maps) -> tuple[torch.Tensor, ...]:
    [product] = {part.product for part in (method.input, method.filters) if part is not None}
    if isinstance(method.filters, PoolWindowShare):
        magnitudes = _magnitudes(task, product, images, maps, filters, False)
        return _gradients_as_it_goes(task, method.input, method.filters, images, filters, winners, maps, magnitudes)
    is_spread = method.input is not None or isinstance(method.filters, FilterGrad | WindowShare)
    magnitudes, planes = _magnitudes(task, product, images, maps, filters, is_spread), None
    if is_spread:
        of_maps = None if magnitudes is None else magnitudes[0 if images is None else 1]
        planes = spread(winners, maps, task.windows, product, of_maps)
    of_images: Any = None
    image_planes = copy = None
    if isinstance(method.input, Window):
        if method.filters is not None:  # the launch that packs filters copies images
            image_planes, copy = _images_for(method.filters, images)
        of_images = _over_windows(task, method.input, filters, planes, magnitudes, copy)
    elif method.input is not None:
        of_maps_and_filters = None if magnitudes is None else magnitudes[-2:]
        of_images = partial(gather_from, _input_task(task), method.input, filters, planes, of_maps_and_filters)
    if method.filters is None:
        return (of_images(),)
    of_images_and_maps = None if magnitudes is None else magnitudes[:2]
    read = image_planes, winners, maps, planes, of_images_and_maps
    of_filters = partial(_filter_grad, task, method.filters, images, *read)
    if method.input is None:
        return (of_filters(),)
    return both(of_images, of_filters, images, *read, device=maps.device)


def _magnitudes(task: PoolTask, product: str, images, maps, filters, are_spread: bool) -> torch.Tensor | None:
    """Rows of `largest_magnitudes` of those operands that there are; of maps a sample will do if they are spread."""
    if product != "float16":
        return None
    most = float(overlap(task.windows.window, task.windows.stride))  # so many times a map pixel's gradient may be
    searched = [(images, 1.0, True), (maps, most, are_spread), (filters, 1.0, False)]
    present = [(dense(tensor), *how) for tensor, *how in searched if tensor is not None]
    tensors, factors, copied = zip(*present)
    return largest_magnitudes(*tensors, factors=factors, copied=copied)


def _over_windows(
    task: PoolTask, method: Window, filters, planes, magnitudes, copy: Copy | None
) -> Callable[[], torch.Tensor]:
    """What gives the input gradient from maps, as soon as filters are packed, and images copied, if they are to be."""
    of_copy, of_maps_and_filters = (None, None) if magnitudes is None else (magnitudes[0], magnitudes[-2:])
    return window_launched(_input_task(task), method, filters, planes[0], of_maps_and_filters, copy, of_copy)


def _images_for(
    method: FilterGrad | WindowShare | PoolShare | PoolWindowShare, images: torch.Tensor
) -> tuple[torch.Tensor, Copy | None]:
    """Images as the kernels of a filter gradient read them, and the copy that makes them so, if one does."""
    if isinstance(method, WindowShare | PoolWindowShare) and method.product != "float16":
        return boxable_preparation(images)
    if isinstance(method, PoolShare) and not method.prepared:
        return images[None], None
    return preparation(images, method.product)


def _input_task(task: PoolTask) -> Task:
    return task.part("correlate2d_input_grad", ("batch_last", task.formats[-1]))


def plan_of_pool_window_share(task: PoolTask, method: PoolWindowShare, kept: bool) -> WindowGradPlan | None:
    """How a method computes; None where it does not fit into a multiprocessor."""
    how = method.blocks, method.spreading, method.product, method.prepared, kept
    return pool_window_grad_plan(task.geometry, task.windows, *how)


def _gradients_as_it_goes(
    task: PoolTask, over_maps: Any, method: PoolWindowShare, images, filters, winners, maps, magnitudes
) -> tuple[torch.Tensor, ...]:
    """The filter gradient, after that of images where that is asked for, which reads the maps that are kept for it."""
    geometry, product = task.geometry, method.product
    plan = plan_of_pool_window_share(task, method, over_maps is not None)
    assert plan is not None
    [images], copy = _images_for(method, images)
    of_images_and_maps = None if magnitudes is None else magnitudes[:2]
    kept = of_images = None
    if over_maps is None:
        launch_copy(copy, product, None if magnitudes is None else magnitudes[0])
    else:
        assert isinstance(over_maps, Window)  # others want batches filled up
        kept = empty(geometry.maps, "batch_last", images.dtype, images.device)
        of_images = _over_windows(task, over_maps, filters, kept[None], magnitudes, copy)
    maps = prepare(maps, product, magnitudes[1])[0] if method.prepared else aligned(maps)
    gradient = empty(geometry.filters, "bc01", task.dtype, images.device)
    shares = pooled_window_shares(images, aligned(winners), maps, plan, of_images_and_maps, kept)
    add = partial(add_pooled_shares, shares, plan, of_images_and_maps, gradient)
    if of_images is None:
        add()
        return (gradient,)
    result, _ = both(of_images, add, shares, of_images_and_maps, gradient, device=gradient.device)
    return result, gradient


def _filter_grad(
    task: PoolTask, method: FilterGrad | WindowShare | PoolShare, images, image_planes, winners, maps, planes,
    magnitudes,
) -> torch.Tensor:  # fmt: skip
    """The filter gradient from images, made `_images_for` it already or not, and from spread maps or pooled ones."""
    if image_planes is None:
        image_planes, copy = _images_for(method, images)
        launch_copy(copy, method.product, None if magnitudes is None else magnitudes[0])
    part = task.part("correlate2d_filter_grad", ("batch_last", "batch_last"))
    if isinstance(method, WindowShare):
        return window_share_from(part, method, image_planes[0], planes[0], magnitudes)
    if isinstance(method, FilterGrad):
        return filter_grad_from(part, method, image_planes, planes, magnitudes)
    geometry = task.geometry
    gradient = torch.empty(geometry.filters, dtype=task.dtype, device=maps.device)
    unit = UNIT if method.prepared else unit_of(image_planes[0])
    plan = gathering(geometry, False)
    wide = is_wide(image_planes[0], maps)
    pooled_filter_grad(
        image_planes, winners, maps, plan, tables_for(plan, image_planes[0], unit, wide), task.windows, gradient,
        geometry.flip, method.product, magnitudes, method.blocks, unit, method.prepared, wide,
    )  # fmt: skip
    return gradient
