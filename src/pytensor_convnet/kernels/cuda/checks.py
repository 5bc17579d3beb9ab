"""What every function of this package asks of its arguments before a kernel runs."""

from collections.abc import Sequence
from typing import Any

import torch

from pytensor_convnet import geometry
from pytensor_convnet.geometry import Padding, Pair

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes that the kernels compute with."""


def check_tensor(value: Any, name: str) -> None:
    """Raise ValueError unless it is one of torch's tensors: NumPy's arrays have dtypes and shapes, too."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a torch tensor (torch.as_tensor makes one), got {type(value).__name__}")


def check_bc01(tensor: Any, name: str) -> None:
    """Raise ValueError unless it is a tensor of four axes."""
    check_tensor(tensor, name)
    if tensor.ndim != 4:
        shape = geometry.format_shape(tensor.shape) or "a scalar"
        raise ValueError(f"{name} must have four axes (batch, channels, rows, columns), got {shape}")


def check_tensors(dtypes: Sequence[torch.dtype] = FLOATS, **tensors: torch.Tensor) -> None:
    """Raise ValueError unless all tensors are bc01, of one of ``dtypes``, and alike in dtype and device."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        check_bc01(tensor, name)
        shape = geometry.format_shape(tensor.shape)
        if tensor.dtype not in dtypes:
            allowed = ", ".join(_name(dtype) for dtype in dtypes)
            raise ValueError(f"{name} ({shape}) must be {allowed}, got {_name(tensor.dtype)}")
        if (tensor.dtype, tensor.device) != (first.dtype, first.device):
            raise ValueError(
                f"{name} ({shape}) is {_name(tensor.dtype)} on {tensor.device}, but {first_name} "
                f"({geometry.format_shape(first.shape)}) is {_name(first.dtype)} on {first.device}: they must be alike"
            )


def check_biases(biases: torch.Tensor, images: torch.Tensor, **count: int) -> None:
    """Raise ValueError unless biases are a number for each of so many ``filters`` or ``channels``, like the images.

    Those of channels are added where images are read, and may be float32 whatever the images are.
    """
    check_tensor(biases, "biases")
    ((of, number),) = count.items()
    if tuple(biases.shape) != (number,):
        shape = geometry.format_shape(biases.shape)
        raise ValueError(f"biases must hold a number for each of the {number} {of}, got {shape}")
    wider = of == "channels"
    fits = biases.dtype == images.dtype or (wider and biases.dtype == torch.float32)
    if not fits or biases.device != images.device:
        raise ValueError(
            f"biases are {biases.dtype} on {biases.device}, but images {images.dtype} on {images.device}: "
            f"they must be alike{', or biases float32' if wider else ''}"
        )


def check_window(stride: Any, padding: Any, dilation: Any, groups: Any) -> tuple[Pair, Padding, Pair, int]:
    """The four as Python integers; raise ValueError unless a filter can move this way at all."""
    return (
        geometry.as_pair(stride, "stride", least=1),
        check_padding(padding, "padding"),
        geometry.as_pair(dilation, "dilation", least=1),
        geometry.as_count(groups, "groups", least=1),
    )


def check_padding(padding: Any, name: str) -> Padding:
    """The padding of each side as Python integers; raise ValueError unless it is in numbers."""
    sides = geometry.as_padding(padding, name)
    if isinstance(sides, str):
        raise ValueError(f"{name} must be ((top, bottom), (left, right)), got {padding!r}")
    return sides


def count(value: Any, name: str) -> int:
    """A length as a positive integer."""
    return geometry.as_count(value, name, least=1)


def number(value: Any, name: str) -> float:
    """A setting as a float; what only looks like a number, a string, is refused."""
    try:
        return float(+value)  # a string has no sign
    except (TypeError, ValueError, RuntimeError):  # the last two of tensors of several numbers
        raise ValueError(f"{name} must be a number, got {value!r}") from None


def raise_problem(problem: str | None, kind: int, *numbers: int) -> None:
    """Raise the `ShapeError` of what one of `geometry`'s ``*_problem`` functions has found, if anything.

    From its kind and numbers, as the CPU's kernels do, so that other layouts have their say in it.
    """
    if problem is not None:
        raise geometry.ShapeError(kind, *numbers)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
