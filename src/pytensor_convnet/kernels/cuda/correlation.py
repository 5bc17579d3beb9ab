"""The passes of a correlation on torch tensors: checked, chosen by measurement, carried out."""

import torch

from pytensor_convnet import geometry as rules
from pytensor_convnet.geometry import Padding, Pair
from pytensor_convnet.kernels.cuda import correlation_grads
from pytensor_convnet.kernels.cuda.carrying_out import carry_out, dense
from pytensor_convnet.kernels.cuda.checks import (
    check_tensor,
    check_tensors,
    check_window,
    count,
    number,
    raise_problem,
)
from pytensor_convnet.kernels.cuda.correlation_grads import GradsTask
from pytensor_convnet.kernels.cuda.formats import check_format, to_format
from pytensor_convnet.kernels.cuda.formats import memory_format as format_of
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.methods import Task
from pytensor_convnet.kernels.cuda.streams import allowed
from pytensor_convnet.kernels.cuda.tuning import choose
from pytensor_convnet.kernels.cuda.window_filters import format_to_read

PRECISIONS = ("ieee", "high", "medium")


def correlate2d(
    images: torch.Tensor, filters: torch.Tensor, stride: Pair, padding: Padding, dilation: Pair, groups: int,
    flip: bool, *, precision: str = "medium", memory_format: str | None = None,
) -> torch.Tensor:  # fmt: skip
    """Correlate ``images`` with ``filters``.

    Parameters
    ----------
    images : tensor of float32, bfloat16 or float16, (batch, channels, rows, columns)
        In any memory format, told from its strides.
    filters : tensor, (filters, channels // groups, rows, columns)
        With any strides.
    stride, dilation : (int, int)
    padding : ((int, int), (int, int))
    groups : int
    flip : bool
        Whether filters are turned by 180 degrees: convolution.
    precision : {'medium', 'high', 'ieee'}
        How float32 is multiplied: relative errors of at most 1e-3, 2e-5, 1e-6.
    memory_format : {'bc01', 'channels_last', 'batch_last'}, optional
        Of the result; by default that of the images, batch_last where they have none.

    Returns
    -------
    tensor, (batch, filters, rows, columns)

    Raises
    ------
    ValueError
        Shapes, dtypes or settings do not fit; the message names what met and the rule.
    """
    check_tensors(images=images, filters=filters)
    geometry = checked_geometry(images.shape, filters.shape, stride, padding, dilation, groups, flip)
    images = as_format(images)
    return _run("correlate2d", geometry, (images, filters), (images,), precision, memory_format)


def correlate2d_input_grad(
    filters: torch.Tensor, maps: torch.Tensor, rows: int, columns: int, stride: Pair, padding: Padding,
    dilation: Pair, groups: int, flip: bool, *, precision: str = "medium", memory_format: str | None = None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of `correlate2d` for images of ``rows`` x ``columns``, given ``maps``, that of its output.

    Parameters
    ----------
    filters : tensor, (filters, channels // groups, rows, columns)
        With any strides.
    maps : tensor of float32, bfloat16 or float16, (batch, filters, rows, columns)
        In any memory format.
    rows, columns : int
        Of the images.
    stride, padding, dilation, groups, flip, precision
        As for `correlate2d`.
    memory_format : {'bc01', 'channels_last', 'batch_last'}, optional
        Of the result; by default that of the maps, batch_last where they have none.

    Returns
    -------
    tensor, (batch, channels, rows, columns)

    Raises
    ------
    ValueError
        As for `correlate2d`; or such maps do not come from such images and filters.
    """
    check_tensors(filters=filters, maps=maps)
    images = (
        maps.shape[0],
        filters.shape[1] * count(groups, "groups"),
        count(rows, "rows"),
        count(columns, "columns"),
    )
    geometry = checked_geometry(images, filters.shape, stride, padding, dilation, groups, flip, maps.shape)
    maps = as_format(maps)
    return _run("correlate2d_input_grad", geometry, (filters, maps), (maps,), precision, memory_format)


def correlate2d_filter_grad(
    images: torch.Tensor, maps: torch.Tensor, rows: int, columns: int, stride: Pair, padding: Padding,
    dilation: Pair, groups: int, flip: bool, *, precision: str = "medium", memory_format: str = "bc01",
) -> torch.Tensor:  # fmt: skip
    """The gradient of `correlate2d` for filters of ``rows`` x ``columns``, given ``maps``, that of its output.

    Parameters
    ----------
    images : tensor of float32, bfloat16 or float16, (batch, channels, rows, columns)
        In any memory format.
    maps : tensor, (batch, filters, rows, columns)
        Likewise.
    rows, columns : int
        Of the filters.
    stride, padding, dilation, groups, flip, precision
        As for `correlate2d`.
    memory_format : {'bc01', 'channels_last', 'batch_last'}, optional
        Of the result; by default bc01.

    Returns
    -------
    tensor, (filters, channels // groups, rows, columns)

    Raises
    ------
    ValueError
        As for `correlate2d`; or such maps do not come from such images and filters.
    """
    check_tensors(images=images, maps=maps)
    filters = (
        maps.shape[1],
        images.shape[1] // count(groups, "groups"),
        count(rows, "rows"),
        count(columns, "columns"),
    )
    geometry = checked_geometry(images.shape, filters, stride, padding, dilation, groups, flip, maps.shape)
    images, maps = as_format(images), as_format(maps)
    return _run("correlate2d_filter_grad", geometry, (images, maps), (images, maps), precision, memory_format)


@torch.no_grad()
def correlate2d_grads(
    images: torch.Tensor, filters: torch.Tensor, maps: torch.Tensor, stride: Pair, padding: Padding, dilation: Pair,
    groups: int, flip: bool, *, precision: str = "medium", memory_format: str | None = None,
    filter_format: str = "bc01", late: bool = False, searched: torch.Tensor | None = None, factor: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Both gradients of `correlate2d`, of images and of filters, given ``maps``, that of its output.

    Where that is faster, which is measured, both read maps that are prepared once.

    Parameters
    ----------
    images, filters, stride, padding, dilation, groups, flip, precision
        As for `correlate2d`.
    maps : tensor, (batch, filters, rows, columns)
        In any memory format.
    memory_format : {'bc01', 'channels_last', 'batch_last'}, optional
        Of the gradient of images; by default that of the images, batch_last where they have none.
    filter_format : {'bc01', 'channels_last', 'batch_last'}
        Of the gradient of filters.
    late : bool
        Whether the gradient of filters may run beside what follows; see `streams.awaited`.
    searched : tensor, optional
        A smaller tensor of which no element of the maps is larger than ``factor`` times the largest. It is searched in
        their place, if any is.
    factor : float

    Returns
    -------
    of_images : tensor, (batch, channels, rows, columns)
    of_filters : tensor, (filters, channels // groups, rows, columns)

    Raises
    ------
    ValueError
        As for `correlate2d`; or such maps do not come from such images and filters.
    """
    check_tensors(images=images, filters=filters, maps=maps)
    geometry = checked_geometry(images.shape, filters.shape, stride, padding, dilation, groups, flip, maps.shape)
    check_format(memory_format)
    check_format(filter_format, "filter_format", optional=False)
    check_precision(precision)
    if searched is not None:
        check_tensor(searched, "searched")
    images, maps = as_format(images), as_format(maps)
    formats = str(format_of(images)), str(format_of(maps)), memory_format or str(format_of(images))
    precision = precision if images.dtype == torch.float32 else "medium"
    bounded = searched is not None and images.dtype == searched.dtype == torch.float32
    factor = number(factor, "factor") if bounded else 0.0
    task = GradsTask(
        "correlate2d_grads", geometry, images.dtype, precision, formats, images.device, factor,
        filter_format=filter_format, format_to_read=format_to_read(filters),
    )  # fmt: skip
    operands = (images, filters, maps, dense(searched)) if bounded else (images, filters, maps)
    method = choose(task, operands)
    with allowed(late):
        return correlation_grads.carry_out(task, method, *operands)


def as_format(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a batch-last copy where it is dense in no format (a slice, say, or one image repeated)."""
    return tensor if format_of(tensor) else to_format(tensor, "batch_last")


def checked_geometry(images, filters, stride, padding, dilation, groups, flip, maps=None) -> Geometry:
    """The checked geometry of shapes and settings."""
    images, filters = tuple(images), tuple(filters)
    stride, padding, dilation, groups = check_window(stride, padding, dilation, groups)
    window = (*stride, *padding[0], *padding[1], *dilation, groups)
    problem = rules.correlation_problem(images, filters, stride, padding, dilation, groups)
    raise_problem(problem, rules.CORRELATION, *images, *filters, *window)
    if maps is not None:
        maps = tuple(maps)
        problem = rules.maps_problem(images, filters, maps, stride, padding, dilation, groups)
        raise_problem(problem, rules.MAPS, *images, *filters, *maps, *window)
    return Geometry(images, filters, stride, padding, dilation, groups, bool(flip))


def check_precision(precision: str) -> None:
    """Raise ValueError unless it is a precision of float32."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


@torch.no_grad()
def _run(
    name: str, geometry: Geometry, operands: tuple[torch.Tensor, ...], formatted: tuple[torch.Tensor, ...],
    precision: str, memory_format: str | None,
) -> torch.Tensor:  # fmt: skip
    check_format(memory_format)
    check_precision(precision)
    formats = tuple(str(format_of(tensor)) for tensor in formatted)
    if name == "correlate2d_filter_grad":
        filters = {"filter_format": memory_format or "bc01"}
    else:
        filters = {"format_to_read": format_to_read(operands[1 if name == "correlate2d" else 0])}
        formats += (memory_format or formats[0],)
    device, dtype = operands[0].device, operands[0].dtype
    precision = precision if dtype == torch.float32 else "medium"
    task = Task(name, geometry, dtype, precision, formats, device, **filters)
    return carry_out(task, choose(task, operands), *operands)
