"""What a backend that computes with arrays of a library must offer."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from pytensor_convnet.geometry import Pair
from pytensor_convnet.lowering.arrays import pooling
from pytensor_convnet.lowering.arrays.base import Arrays
from pytensor_convnet.lowering.arrays.pooling import Windows


class Library(Arrays):
    """A library's arrays, its convolutions, and pools where it has better ones than those of `pooling`.

    Correlations and their arguments are `reference`'s of the same name; ``sliding`` are stride, padding, dilation,
    groups and flip.
    """

    @abstractmethod
    def integers(self, value: Any, name: str) -> Any:
        """An integer, or nested sequences of them, in Python's numbers; a ValueError names what is not known yet."""

    @abstractmethod
    def all_mean(self, tensors: Any) -> Any:
        """The mean of each tensor over all processes."""

    @abstractmethod
    def correlate2d(self, images: Any, filters: Any, *sliding: Any) -> Any: ...

    @abstractmethod
    def correlate2d_input_grad(self, filters: Any, maps: Any, rows: int, columns: int, *sliding: Any) -> Any: ...

    @abstractmethod
    def correlate2d_filter_grad(self, images: Any, maps: Any, rows: int, columns: int, *sliding: Any) -> Any: ...

    @abstractmethod
    def locally_connected2d(self, images: Any, filters: Any, *sliding: Any) -> Any: ...

    @abstractmethod
    def locally_connected2d_input_grad(
        self, filters: Any, maps: Any, rows: int, columns: int, *sliding: Any
    ) -> Any: ...

    @abstractmethod
    def locally_connected2d_filter_grad(
        self, images: Any, maps: Any, rows: int, columns: int, *sliding: Any
    ) -> Any: ...

    def max_pool2d(self, images: Any, winners_dtype: str, counts: Pair, windows: Windows) -> tuple[Any, Any]:
        return pooling.max_pool2d(self, images, winners_dtype, counts, windows)

    def max_pool2d_grad(self, winners: Any, maps: Any, rows: int, columns: int, windows: Windows) -> Any:
        return pooling.max_pool2d_grad(self, winners, maps, rows, columns, windows)

    def average_pool2d(self, images: Any, counts: Pair, windows: Windows, mode: str) -> Any:
        return pooling.average_pool2d(self, images, counts, windows, mode)

    def average_pool2d_grad(self, maps: Any, rows: int, columns: int, windows: Windows, mode: str) -> Any:
        return pooling.average_pool2d_grad(self, maps, rows, columns, windows, mode)


def gradients_of(forward: Callable[..., Any], transpose: Callable[..., Any], unshared: bool) -> tuple[Any, Any]:
    """Both gradients of a correlation, which is linear in images and in filters: for images, and for filters.

    ``transpose(function, shape, maps)`` applies to ``maps`` the transpose of a linear function of an array of such a
    shape; ``unshared`` filters have axes of positions, too.
    """

    def input_grad(filters, maps, rows, columns, *sliding):
        _, _, _, groups, _ = sliding
        shape = maps.shape[0], filters.shape[-3] * groups, rows, columns
        return transpose(lambda images: forward(images, filters, *sliding), shape, maps)

    def filter_grad(images, maps, rows, columns, *sliding):
        _, _, _, groups, _ = sliding
        positions = maps.shape[2:] if unshared else ()
        shape = maps.shape[1], *positions, images.shape[1] // groups, rows, columns
        return transpose(lambda filters: forward(images, filters, *sliding), shape, maps)

    return staticmethod(input_grad), staticmethod(filter_grad)
