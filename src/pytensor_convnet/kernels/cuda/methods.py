"""The ways to compute a pass of a correlation, as plain values; `carrying_out` has what each does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytensor_convnet.kernels.cuda.filter_grad_kernel import GradBlocks
from pytensor_convnet.kernels.cuda.gather_kernel import Blocks
from pytensor_convnet.kernels.cuda.gathering import Geometry
from pytensor_convnet.kernels.cuda.sliding_grad_kernel import SlidingBlocks
from pytensor_convnet.kernels.cuda.window_grad_kernel import WindowGradBlocks
from pytensor_convnet.kernels.cuda.window_kernel import WindowBlocks


@dataclass(frozen=True)
class Cudnn:
    """By cuDNN, with operands brought to ``format``.

    Attributes
    ----------
    format : {'bc01', 'channels_last'}
    as_forward : bool
        Whether an input gradient is computed as a forward pass; see `cudnn.input_grad_as_forward`.
    """

    format: str
    as_forward: bool = False


@dataclass(frozen=True)
class Gather:
    """Forward pass or input gradient by `gather_kernel`.

    Attributes
    ----------
    prepared : bool
        Whether the source is brought to the product's dtype and the batch innermost first. float16 and bf16x3 need it.
    target_format : str
        The target is made in this format, and changed after if another was asked for.
    product : str
        See `products`.
    patch : (int, int)
        Rows and columns of the target's patches.
    joined : bool
    channel_multiple : int
        See `gathering`.
    blocks : Blocks
    """

    prepared: bool
    target_format: str
    product: str
    patch: tuple[int, int]
    joined: bool
    channel_multiple: int
    blocks: Blocks


@dataclass(frozen=True)
class Window:
    """Forward pass or input gradient by `window_kernel`, batch-last, of patches whose residues are joined.

    A source that is ``prepared`` is float16 already, of results of float32.
    """

    product: str
    patch: tuple[int, int]
    blocks: WindowBlocks
    prepared: bool = False


@dataclass(frozen=True)
class Share:
    """The filter gradient by `filter_grad_kernel`, of operands as they are or, as for `Gather`, ``prepared``.

    ``patch`` are the rows and columns of the patches in which the maps are taken. What they read must have no gaps but
    those of a `Gathering.is_regular`.
    """

    prepared: bool
    product: str
    patch: tuple[int, int]
    blocks: GradBlocks


@dataclass(frozen=True)
class SlidingShare:
    """The filter gradient by `sliding_grad_kernel`, of operands with the batch innermost, ``prepared`` or not."""

    prepared: bool
    product: str
    blocks: SlidingBlocks


@dataclass(frozen=True)
class WindowShare:
    """The filter gradient by `window_grad_kernel`, of batch-last images and maps, or prepared ones of float16."""

    product: str
    blocks: WindowGradBlocks


FilterGrad = Share | SlidingShare
"""Our ways to compute the filter gradient, of operands that may be prepared."""


@dataclass(frozen=True)
class Unrolled:
    """A pass of a few images by a method for many, columns in the place of images; see `unrolling`."""

    method: Gather | Window | FilterGrad | WindowShare

    @property
    def product(self) -> str:
        """That of the method."""
        return self.method.product


class Composed:
    """A method of parts that are tasks of their own."""


@dataclass(frozen=True)
class Pair(Composed):
    """A pass that is two, each by the function that is its own, as is best for it."""


Method = Cudnn | Gather | Window | FilterGrad | WindowShare | Unrolled


def ours(methods: Sequence[Any]) -> list[Any]:
    """The methods that launch kernels of ours."""
    return [method for method in methods if not isinstance(method, Cudnn)]


@dataclass(frozen=True)
class Task:
    """One pass to compute: what everything about it depends on but the data.

    Attributes
    ----------
    name : {'correlate2d', 'correlate2d_input_grad', 'correlate2d_filter_grad'}
    geometry : Geometry
    dtype : torch dtype
    precision : {'ieee', 'high', 'medium'}
    formats : tuple of str
        Of the operands that are bc01 (images, maps), and of the result if that is.
    device : torch device
    filter_format : str
        Of the gradient of filters, where that is a result. (Filters are taken with any strides.)
    format_to_read : str
        Of filters, where they are an operand; see `window_filters`.
    """

    name: str
    geometry: Geometry
    dtype: torch.dtype
    precision: str
    formats: tuple[str, ...]
    device: torch.device
    filter_format: str = field(default="bc01", kw_only=True)
    format_to_read: str = field(default="bc01", kw_only=True)

    def part(self, name: str, formats: tuple[str, ...]) -> "Task":
        """A pass of the correlation alone, where this is more than one."""
        filter_format = self.filter_format if name == "correlate2d_filter_grad" else "bc01"
        return Task(
            name, self.geometry, self.dtype, self.precision, formats, self.device, filter_format=filter_format
        )  # fmt: skip
