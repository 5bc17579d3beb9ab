"""The benchmark suite: every case once, under the name used everywhere.

A convolution is written ``batch x channels x rows x columns, filters @ size, s stride, p padding``; a pool the same
without filters. The cases are layers of LeNet, of cuda-convnet's CIFAR-10 network (at two batch sizes), of
AlexNet and VGG, and the five of the public convnet-benchmarks (cb1 to cb5); some are there because they are odd.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytensor_convnet.geometry import Padding, Pair, as_padding, as_pair, correlation_length, pool_length

CPU_LIMIT = 4e9
"""A CPU runs cases of more floating-point operations than this with a batch of 16."""


GPU_FORMATS = ("batch_last", "channels_last", "bc01")
"""The physical formats in which a GPU runs convolutions and pools."""

CONV_PRECISIONS = {"medium": ("float32", "medium"), "high": ("float32", "high"), "bf16": ("bfloat16", "medium")}
"""The precisions of convolutions on a GPU: dtype, and precision of its products."""


@dataclass(frozen=True)
class ConvCase:
    """A convolution layer: bc01 images, filters, stride and padding."""

    name: str
    batch: int
    channels: int
    rows: int
    columns: int
    filters: int
    taps: Pair
    stride: Pair
    padding: Padding

    operations = ("forward", "input_grad", "filter_grad")

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.rows, self.columns

    @property
    def filter_shape(self) -> tuple[int, int, int, int]:
        return self.filters, self.channels, *self.taps

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        rows, columns = (
            correlation_length(length, taps, stride, before, after, 1)
            for length, taps, stride, (before, after) in zip(self.image_shape[2:], self.taps, self.stride, self.padding)
        )
        return self.batch, self.filters, rows, columns

    @property
    def flops(self) -> int:
        """Nominal floating-point operations of any of the three passes (taps on padding count, as everywhere)."""
        batch, filters, rows, columns = self.map_shape
        return 2 * batch * filters * rows * columns * self.channels * self.taps[0] * self.taps[1]

    def bytes(self, itemsize: int) -> int:
        """Bytes of images, filters and maps, each moved once."""
        shapes = self.image_shape, self.filter_shape, self.map_shape
        return itemsize * sum(_size(shape) for shape in shapes)

    def summed_terms(self, operation: str) -> int:
        """How many products an element of the result sums: the longer the sum, the more rounding it gathers."""
        batch, filters, rows, columns = self.map_shape
        area = self.taps[0] * self.taps[1]
        return {
            "forward": self.channels * area,
            "input_grad": -(filters * area // -(self.stride[0] * self.stride[1])),  # a stride shares taps among pixels
            "filter_grad": batch * rows * columns,
        }[operation]

    def for_cpu(self) -> "ConvCase":
        """The case with a batch that a CPU runs in reasonable time."""
        return replace(self, batch=min(self.batch, 16)) if self.flops > CPU_LIMIT else self

    def __str__(self) -> str:
        return (
            f"{_images(self.image_shape)}, {self.filters} @ {_pair(self.taps)}"
            f"{_stride(self.stride)}{_padding(self.padding)}"
        )


@dataclass(frozen=True)
class PoolCase:
    """A pooling layer without partial windows."""

    name: str
    batch: int
    channels: int
    rows: int
    columns: int
    window: Pair
    stride: Pair
    padding: Padding
    mode: str = "max"

    operations = ("forward", "backward")

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.rows, self.columns

    @property
    def map_shape(self) -> tuple[int, int, int, int]:
        rows, columns = (
            pool_length(length, window, stride, before, after, True)
            for length, window, stride, (before, after) in zip(
                self.image_shape[2:], self.window, self.stride, self.padding
            )
        )
        return self.batch, self.channels, rows, columns

    def bytes(self, itemsize: int) -> int:
        """Bytes that a pass must move: images, maps and, for a maximum, a byte for each winner."""
        winners = _size(self.map_shape) if self.mode == "max" else 0
        return itemsize * (_size(self.image_shape) + _size(self.map_shape)) + winners

    def __str__(self) -> str:
        return (
            f"{_images(self.image_shape)}, {self.mode} {_pair(self.window)}"
            f"{_stride(self.stride)}{_padding(self.padding)}"
        )


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _pair(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


def _images(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _stride(stride: Pair) -> str:
    if stride == (1, 1):
        return ""
    return f" s{stride[0]}" if stride[0] == stride[1] else f" s{stride}"


def _padding(padding: Padding) -> str:
    (top, _), (left, _) = padding
    if top == left:
        return f" p{top}" if top else ""
    return f" p({top}, {left})"


def _conv(name: str, images: str, filters: int, taps, stride=1, padding=0) -> ConvCase:
    sides = as_padding(padding)
    assert not isinstance(sides, str)
    batch, channels, rows, columns = map(int, images.split("x"))
    size, step = as_pair(taps, "taps", least=1), as_pair(stride, "stride", least=1)
    return ConvCase(name, batch, channels, rows, columns, filters, size, step, sides)


def _pool(name: str, images: str, window, stride=None, padding=0, mode: str = "max") -> PoolCase:
    sides = as_padding(padding)
    assert not isinstance(sides, str)
    batch, channels, rows, columns = map(int, images.split("x"))
    size = as_pair(window, "window", least=1)
    step = size if stride is None else as_pair(stride, "stride", least=1)
    return PoolCase(name, batch, channels, rows, columns, size, step, sides, mode)


CONV = {
    case.name: case
    for case in (
        _conv("lenet1", "500x1x28x28", 20, 5),
        _conv("lenet2", "500x20x12x12", 50, 5),
        _conv("cifar1", "128x3x32x32", 32, 5, padding=2),
        _conv("cifar2", "128x32x16x16", 32, 5, padding=2),
        _conv("cifar3", "128x32x8x8", 64, 5, padding=2),
        _conv("cifar1_b1024", "1024x3x32x32", 64, 5, padding=2),
        _conv("cifar2_b1024", "1024x64x16x16", 64, 5, padding=2),
        _conv("stride2", "128x64x32x32", 128, 3, stride=2, padding=1),
        _conv("stride2_5x5", "128x32x32x32", 64, 5, stride=2, padding=2),
        _conv("stride2_1024", "1024x64x32x32", 128, 3, stride=2, padding=1),
        _conv("alex1", "128x3x224x224", 96, 11, stride=4),
        _conv("alex2", "128x96x27x27", 256, 5, padding=2),
        _conv("cb1", "128x3x128x128", 96, 11),
        _conv("cb2", "128x64x64x64", 128, 9),
        _conv("cb3", "128x128x32x32", 128, 9),
        _conv("cb4", "128x128x16x16", 128, 7),
        _conv("cb5", "128x384x13x13", 384, 3),
        _conv("vgg3", "64x256x56x56", 256, 3, padding=1),
        _conv("odd", "37x5x19x23", 7, (3, 5), stride=(2, 1), padding=(1, 2)),
        _conv("single", "1x3x224x224", 64, 7, stride=2, padding=3),
    )
}

POOL = {
    case.name: case
    for case in (
        _pool("lenet_p22", "500x20x24x24", 2),
        _pool("cifar_p32", "128x32x32x32", 3, stride=2, padding=1),
        _pool("cifar_p32_b1024", "1024x64x32x32", 3, stride=2, padding=1),
        _pool("alex_p32", "128x96x55x55", 3, stride=2),
        _pool("p31", "128x64x56x56", 3, stride=1, padding=1),
        _pool("vgg_p22", "128x64x112x112", 2),
        _pool("avg_p32", "128x32x16x16", 3, stride=2, padding=1, mode="average_inc_pad"),
    )
}
