"""What is measured of a pool: forward and backward by ours, by torch and by JAX, each in several physical formats."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from pytensor_convnet.bench.cases import PoolCase
from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.kernels.cuda.average_pooling import average_pool2d, average_pool2d_grad
from pytensor_convnet.kernels.cuda.formats import to_format
from pytensor_convnet.kernels.cuda.max_pooling import max_pool2d
from pytensor_convnet.kernels.cuda.max_pooling_grad import max_pool2d_grad

Operands = tuple[torch.Tensor, torch.Tensor]
Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class PoolOperation:
    """Forward or backward of one case on data of one dtype."""

    case: PoolCase
    name: str
    dtype: torch.dtype

    def operands(self, count: int) -> list[Operands]:
        """Sets of random operands, bc01: images, and the gradient of the maps."""
        generator = torch.Generator("cuda").manual_seed(0)

        def random(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, device="cuda", generator=generator).to(self.dtype)

        return [(random(self.case.image_shape), random(self.case.map_shape)) for _ in range(count)]

    @property
    def nbytes(self) -> int:
        """The fewest bytes that are moved."""
        return self.case.bytes(self.dtype.itemsize)

    def exact(self, operands: Operands) -> torch.Tensor:
        """The result in float64, by ATen."""
        images, maps = (tensor.double() for tensor in operands)
        return _torch_call(self, images, maps)()

    @property
    def side(self) -> list[int]:
        """The padding on each axis, which peers want to be the same before and after."""
        (top, bottom), (left, right) = self.case.padding
        assert (top, left) == (bottom, right)
        return [top, left]


class Implementation(ABC):
    """One implementation in one physical format."""

    name: ClassVar[str]

    def __init__(self, layout: str) -> None:
        self.layout = layout

    @abstractmethod
    def seconds(self, operation: PoolOperation, sets: list[Operands]) -> float:
        """Seconds of an operation, its operands already in the format."""

    @abstractmethod
    def result(self, operation: PoolOperation, operands: Operands) -> torch.Tensor:
        """The result, bc01 by its axes."""


class Ours(Implementation):
    """The kernels of this package; the gradient of a maximum is given the winners."""

    name = "pytensor-convnet"

    def _call(self, operation: PoolOperation, operands: Operands) -> Call:
        case = operation.case
        windows = case.window, case.stride, case.padding
        images, maps = (to_format(tensor, self.layout) for tensor in operands)
        if case.mode != "max":
            if operation.name == "forward":
                return lambda: average_pool2d(images, *windows, True, case.mode)
            return lambda: average_pool2d_grad(maps, *case.image_shape[2:], *windows, case.mode)
        if operation.name == "forward":
            return lambda: max_pool2d(images, torch.uint8, *windows, True)[0]
        _, winners = max_pool2d(images, torch.uint8, *windows, True)
        return lambda: max_pool2d_grad(winners, maps, *case.image_shape[2:], *windows)

    def seconds(self, operation, sets):
        return timing.graph_seconds([self._call(operation, operands) for operands in sets])

    def result(self, operation, operands):
        return self._call(operation, operands)()


class Torch(Implementation):
    """ATen's kernels; the gradient of a maximum is given the indices."""

    name = "torch"

    def _call(self, operation: PoolOperation, operands: Operands) -> Call:
        memory_format = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        images, maps = (tensor.contiguous(memory_format=memory_format) for tensor in operands)
        return _torch_call(operation, images, maps)

    def seconds(self, operation, sets):
        return timing.graph_seconds([self._call(operation, operands) for operands in sets])

    def result(self, operation, operands):
        return self._call(operation, operands)()


def _torch_call(operation: PoolOperation, images: torch.Tensor, maps: torch.Tensor) -> Call:
    case, aten = operation.case, torch.ops.aten
    window, stride, padding = list(case.window), list(case.stride), operation.side
    if case.mode == "max":
        if operation.name == "forward":
            return lambda: F.max_pool2d(images, window, stride, padding)
        _, indices = aten.max_pool2d_with_indices(images, window, stride, padding)
        backward = aten.max_pool2d_with_indices_backward
        return lambda: backward(maps, images, window, stride, padding, [1, 1], False, indices)
    assert case.mode == "average_inc_pad"
    if operation.name == "forward":
        return lambda: F.avg_pool2d(images, window, stride, padding)
    return lambda: aten.avg_pool2d_backward(maps, images, window, stride, padding, False, True, None)


class Jax(Implementation):
    """XLA: `jax.lax.reduce_window` and its vjp, one jitted function of all sets of operands."""

    name = "jax"

    def _function(self, operation: PoolOperation) -> Callable[..., Any]:
        import jax
        from jax import lax
        from jax import numpy as jnp

        case = operation.case

        def four(pair: Any, one: Any) -> Any:
            return (one, *pair, one) if self.layout == "channels_last" else (one, one, *pair)

        def pool(images):
            windows = four(case.window, 1), four(case.stride, 1), four(case.padding, (0, 0))
            if case.mode == "max":
                return lax.reduce_window(images, -jnp.inf, lax.max, *windows)
            return lax.reduce_window(images, 0.0, lax.add, *windows) / (case.window[0] * case.window[1])

        def one_pass(images, maps):
            return pool(images) if operation.name == "forward" else jax.vjp(pool, images)[1](maps)[0]

        return jax.jit(lambda sets: [one_pass(images, maps) for images, maps in sets])

    def _placed(self, operands: Operands):
        import jax

        tensors = operands
        if self.layout == "channels_last":
            tensors = tuple(tensor.permute(0, 2, 3, 1) for tensor in operands)
        return tuple(jax.dlpack.from_dlpack(tensor.contiguous()) for tensor in tensors)

    def seconds(self, operation, sets):
        import jax

        function, placed = self._function(operation), [self._placed(operands) for operands in sets]
        torch.cuda.synchronize()
        return timing.queued_seconds(lambda: function(placed), jax.block_until_ready, len(placed))

    def result(self, operation, operands):
        result = torch.from_dlpack(self._function(operation)([self._placed(operands)])[0])
        return result.permute(0, 3, 1, 2) if self.layout == "channels_last" else result


def implementations(peers: Sequence[str], formats: Sequence[str]) -> list[Implementation]:
    """Ours in these formats, and the peers in each of their layouts."""
    kinds: dict[str, type[Implementation]] = {"torch": Torch, "jax": Jax}
    ours: list[Implementation] = [Ours(layout) for layout in formats]
    return ours + [kinds[name](layout) for name in peers for layout in ("channels_last", "bc01")]
