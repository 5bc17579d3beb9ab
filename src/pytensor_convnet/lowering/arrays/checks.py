"""Whether what an Op is given fits: the sentences of `geometry`, raised before a library computes."""

from collections.abc import Sequence
from itertools import chain

from pytensor_convnet import geometry
from pytensor_convnet.geometry import Padding, Pair, ShapeError
from pytensor_convnet.ops.correlation import Correlation

Shape = Sequence[int]


def check_correlation(op: Correlation, images: Shape, filters: Shape, maps: Shape | None = None) -> None:
    """Raise a ShapeError unless ``filters`` can be correlated with ``images``, and ``maps`` are what comes out."""
    padding = op.resolved_padding(*filters[-2:])
    slides = op.stride, padding, op.dilation, op.groups
    numbers = *op.stride, *chain(*padding), *op.dilation, op.groups
    if geometry.correlation_problem(images, filters, *slides) is not None:
        raise ShapeError(geometry.CORRELATION, *images, *filters, *numbers)
    if maps is not None and geometry.maps_problem(images, filters, maps, *slides) is not None:
        raise ShapeError(geometry.MAPS, *images, *filters, *maps, *numbers)


def check_pool(images: Shape, ignore_border: bool, window: Pair, stride: Pair, padding: Padding) -> None:
    """Raise a ShapeError unless windows can slide over ``images``."""
    if geometry.pool_problem(images, window, stride, padding, ignore_border) is not None:
        raise ShapeError(geometry.POOL, *images, *window, *stride, *chain(*padding), ignore_border)


def check_pooled(images: Shape, pooled: Shape, window: Pair, stride: Pair, padding: Padding) -> None:
    """Raise a ShapeError unless ``pooled`` can be the maps of windows on ``images``."""
    if geometry.pooled_problem(images, pooled, window, stride, padding) is not None:
        raise ShapeError(geometry.POOLED, *images, *pooled, *window, *stride, *chain(*padding))


def check_winners(winners: Shape, maps: Shape) -> None:
    """Raise a ShapeError unless there is a winner for each of ``maps``."""
    if tuple(winners) != tuple(maps):
        raise ShapeError(geometry.WINNERS, *winners, *maps)


def check_normalised(images: Shape, maps: Shape) -> None:
    """Raise a ShapeError unless ``maps`` have the shape of ``images``."""
    if geometry.normalised_problem(images, maps) is not None:
        raise ShapeError(geometry.NORMALISED, *images, *maps)
