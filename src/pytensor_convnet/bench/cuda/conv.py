"""What is measured of a convolution: each pass by ours, by torch and by JAX, each in several physical formats."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pytensor_convnet.bench.cases import ConvCase
from pytensor_convnet.bench.cuda import timing
from pytensor_convnet.kernels import cuda as kernels

OPERATIONS = {
    "forward": "correlate2d",
    "input_grad": "correlate2d_input_grad",
    "filter_grad": "correlate2d_filter_grad",
}
"""The operations of a case, and the functions of `kernels.cuda` that compute them."""

Operands = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class ConvOperation:
    """One pass of one case on data of one dtype, in a precision."""

    case: ConvCase
    name: str
    dtype: torch.dtype
    precision: str

    def operands(self, count: int) -> list[Operands]:
        """Sets of random operands, bc01: images and filters, filters and maps, or images and maps."""
        shapes = {"images": self.case.image_shape, "filters": self.case.filter_shape, "maps": self.case.map_shape}
        names = {"forward": ("images", "filters"), "input_grad": ("filters", "maps"), "filter_grad": ("images", "maps")}
        generator = torch.Generator("cuda").manual_seed(0)
        return [
            tuple(
                torch.randn(shapes[name], device="cuda", generator=generator).to(self.dtype)
                for name in names[self.name]
            )
            for _ in range(count)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of all operands and the result."""
        return self.case.bytes(self.dtype.itemsize)

    def exact(self, operands: Operands) -> torch.Tensor:
        """The result in float64, by ATen's own kernels."""
        with torch.backends.cudnn.flags(enabled=False):
            first, second = (tensor.double() for tensor in operands)
            return _torch_pass(self, first, second)()


class Implementation(ABC):
    """One implementation in one physical format."""

    name: ClassVar[str]

    def __init__(self, layout: str) -> None:
        self.layout = layout

    @abstractmethod
    def seconds(self, operation: ConvOperation, sets: list[Operands]) -> float:
        """Seconds of a pass, its operands already in the format."""

    @abstractmethod
    def result(self, operation: ConvOperation, operands: Operands) -> torch.Tensor:
        """The result, bc01 by its axes."""

    def extra_bytes(self, operation: ConvOperation, operands: Operands) -> int | None:
        """Peak memory beyond operands and result; None where it is not known."""
        return None


class Ours(Implementation):
    """The kernels of this package, chosen by measurement.

    Filters and their gradient are in the format of the images, as those of torch are. Beside batch-last images of
    float32, whose filters are packed in any case, they are bc01.
    """

    name = "pytensor-convnet"

    def _call(self, operation: ConvOperation, operands: Operands) -> Callable[[], torch.Tensor]:
        case = operation.case
        sizes = {"forward": (), "input_grad": case.image_shape[2:], "filter_grad": case.filter_shape[2:]}
        settings = (*sizes[operation.name], case.stride, case.padding, (1, 1), 1, False)
        packed = self.layout == "batch_last" and operation.dtype == torch.float32
        filter_format, (first, second) = "bc01" if packed else self.layout, operands
        first = kernels.to_format(first, filter_format if operation.name == "input_grad" else self.layout)
        second = kernels.to_format(second, filter_format if operation.name == "forward" else self.layout)
        keywords = {"precision": operation.precision}
        if operation.name == "filter_grad":
            keywords["memory_format"] = filter_format
        function: Any = getattr(kernels, OPERATIONS[operation.name])
        return lambda: function(first, second, *settings, **keywords)

    def seconds(self, operation, sets):
        return timing.graph_seconds([self._call(operation, operands) for operands in sets])

    def result(self, operation, operands):
        return self._call(operation, operands)()

    def extra_bytes(self, operation, operands):
        return timing.extra_bytes(self._call(operation, operands))


class Torch(Implementation):
    """cuDNN through torch, with cudnn.benchmark on."""

    name = "torch"

    def _call(self, operation: ConvOperation, operands: Operands) -> Callable[[], torch.Tensor]:
        memory_format = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        first, second = (tensor.contiguous(memory_format=memory_format) for tensor in operands)
        return _torch_pass(operation, first, second)

    def _flags(self, operation: ConvOperation):
        tf32 = operation.precision == "medium"
        return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32)

    def seconds(self, operation, sets):
        with self._flags(operation):
            return timing.graph_seconds([self._call(operation, operands) for operands in sets])

    def result(self, operation, operands):
        with self._flags(operation):
            return self._call(operation, operands)()

    def extra_bytes(self, operation, operands):
        with self._flags(operation):
            return timing.extra_bytes(self._call(operation, operands))


def _torch_pass(operation: ConvOperation, first: torch.Tensor, second: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A pass by torch's operators. What a gradient does not depend on is a tensor without memory of its own."""
    case = operation.case
    (top, bottom), (left, right) = case.padding
    assert (top, left) == (bottom, right)
    stride, padding = list(case.stride), [top, left]
    if operation.name == "forward":
        return lambda: torch.nn.functional.conv2d(first, second, stride=stride, padding=padding)
    if operation.name == "input_grad":
        filters, maps, wanted = first, second, 0
        images = torch.empty(case.image_shape, dtype=maps.dtype, device="cuda")
    else:
        images, maps, wanted = first, second, 1
        filters = torch.empty(case.filter_shape, dtype=maps.dtype, device="cuda")
    memory_format = torch.channels_last if maps.stride(1) == 1 and maps.shape[1] > 1 else torch.contiguous_format
    images, filters = images.contiguous(memory_format=memory_format), filters.contiguous(memory_format=memory_format)
    mask = [wanted == 0, wanted == 1, False]
    return lambda: torch.ops.aten.convolution_backward(
        maps, images, filters, None, stride, padding, [1, 1], False, [0, 0], 1, mask
    )[wanted]


class Jax(Implementation):
    """XLA: `jax.lax.conv_general_dilated` and its vjp, one jitted function of all sets of operands."""

    name = "jax"

    def _function(self, operation: ConvOperation) -> Callable[..., Any]:
        import jax
        from jax import lax
        from jax import numpy as jnp

        case = operation.case
        axes = ("NHWC", "HWIO", "NHWC") if self.layout == "channels_last" else ("NCHW", "OIHW", "NCHW")

        def correlate(images, filters):
            return lax.conv_general_dilated(images, filters, case.stride, case.padding, dimension_numbers=axes)

        def one_pass(first, second):
            if operation.name == "forward":
                return correlate(first, second)
            shape = case.image_shape if operation.name == "input_grad" else case.filter_shape
            unknown = jnp.zeros(self._shape(shape, operation.name == "filter_grad"), second.dtype)
            if operation.name == "input_grad":
                return jax.vjp(lambda images: correlate(images, first), unknown)[1](second)[0]
            return jax.vjp(lambda filters: correlate(first, filters), unknown)[1](second)[0]

        return jax.jit(lambda sets: [one_pass(first, second) for first, second in sets])

    def _shape(self, shape, filters: bool):
        if self.layout != "channels_last":
            return shape
        a, b, rows, columns = shape
        return (rows, columns, b, a) if filters else (a, rows, columns, b)

    def _placed(self, operation: ConvOperation, operands: Operands):
        import jax

        filters_at = {"forward": 1, "input_grad": 0, "filter_grad": None}[operation.name]
        placed = []
        for place, tensor in enumerate(operands):
            if self.layout == "channels_last":
                tensor = tensor.permute((2, 3, 1, 0) if place == filters_at else (0, 2, 3, 1))
            placed.append(jax.dlpack.from_dlpack(tensor.contiguous()))
        return tuple(placed)

    def seconds(self, operation, sets):
        import jax

        function = self._function(operation)
        placed = [self._placed(operation, operands) for operands in sets]
        torch.cuda.synchronize()
        return timing.queued_seconds(lambda: function(placed), jax.block_until_ready, len(placed))

    def result(self, operation, operands):
        result = torch.from_dlpack(self._function(operation)([self._placed(operation, operands)])[0])
        if self.layout != "channels_last":
            return result
        return result.permute((3, 2, 0, 1) if operation.name == "filter_grad" else (0, 3, 1, 2))


def implementations(peers: Sequence[str], formats: Sequence[str]) -> list[Implementation]:
    """Ours in these formats, and the peers in each of their layouts."""
    kinds: Mapping[str, type[Implementation]] = {"torch": Torch, "jax": Jax}
    ours: list[Implementation] = [Ours(layout) for layout in formats]
    return ours + [kinds[name](layout) for name in peers for layout in ("channels_last", "bc01")]
