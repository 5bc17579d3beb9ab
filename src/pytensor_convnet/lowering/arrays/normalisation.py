"""Normalisation across maps by sums of shifted tensors. Each function is `reference`'s of the same name."""

from typing import Any

from pytensor_convnet.lowering.arrays.base import Arrays


def cross_map_sum(arrays: Arrays, images: Any, size: int, blocked: bool, transposed: bool) -> Any:
    """The sum of each map's neighbours; transposed, of those maps whose neighbour it is."""
    batch, channels, rows, columns = images.shape
    if blocked:  # in which each is a neighbour of the other
        blocks = -(-channels // size)
        together = arrays.cut(images, 1, 0, blocks * size, 0).reshape((batch, blocks, size, rows, columns))
        return arrays.cut(arrays.repeat(together.sum(2), 1, size), 1, 0, channels, 0)
    first = size // 2 - size + 1 if transposed else -(size // 2)
    shifts = range(max(first, 1 - channels), min(first + size, channels))
    return sum(arrays.cut(images, 1, shift, channels, 0) for shift in shifts)


def cross_map_norm(arrays: Arrays, images: Any, size: int, scale: float, power: float, blocked: bool) -> Any:
    """Each map divided by a power of its neighbours' energy."""
    return images * (1 + scale * cross_map_sum(arrays, images * images, size, blocked, False)) ** -power


def cross_map_norm_grad(
    arrays: Arrays, images: Any, maps: Any, size: int, scale: float, power: float, blocked: bool
) -> Any:
    """The gradient of `cross_map_norm`, given ``maps``, the gradient of its output."""
    denominators = 1 + scale * cross_map_sum(arrays, images * images, size, blocked, False)
    shares = cross_map_sum(arrays, maps * images * denominators ** (-power - 1), size, blocked, True)
    return maps * denominators**-power - 2 * scale * power * images * shares
