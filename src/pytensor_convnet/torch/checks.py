"""What the functions ask of their arguments, said in the names under which these were given.

The kernels would refuse the same, but they know other names.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pytensor_convnet.geometry import Pair, as_pair, dilated_length, format_shape

PRECISIONS = ("medium", "high", "ieee")
AXES = ("rows", "columns")


def check_tensors(**tensors: Any) -> None:
    """Raise ValueError unless all are tensors, or a ``bias`` is None."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) and not (name == "bias" and tensor is None):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")


def check_flag(value: Any, name: str) -> None:
    """Raise ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(value: Any, choices: Sequence[str], name: str) -> None:
    """Raise ValueError unless it is one of the choices, or None."""
    if value is not None and not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name} must be one of {', '.join(choices)}, or None, got {value!r}")


def pair_of(value: Any, name: str, least: int) -> Pair:
    """An int, two, or a sequence of one, which torch admits, as (rows, columns)."""
    single = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1
    return as_pair(value[0] if single else value, name, least=least)


def check_images(input: Tensor) -> None:
    """Raise ValueError unless it is a batch of images, or one."""
    if input.ndim not in (3, 4):
        raise ValueError(
            f"input must be (batch, channels, rows, columns) or (channels, rows, columns), got {tuple(input.shape)}"
        )


def check_operands(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise ValueError unless they have the axes that they need, and are alike in dtype and device."""
    check_images(input)
    if weight.ndim != 4:
        raise ValueError(f"weight must be (filters, channels // groups, rows, columns), got {tuple(weight.shape)}")
    _check_alike("weight", weight, "input", input)
    if bias is not None:
        check_bias(bias, weight)


def check_bias(bias: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless it is a number for each filter, of the weight's dtype, where that is."""
    if tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias must have a number for each of the {weight.shape[0]} filters, got {tuple(bias.shape)}")
    _check_alike("bias", bias, "weight", weight)


def check_correlation(
    input: Tensor, weight: Tensor, stride: Pair, sides: Sequence[int], dilation: Pair, groups: int
) -> None:
    """Raise ValueError unless the weight's filters can be moved over the images."""
    channels, (filters, depth, *taps) = input.shape[-3], weight.shape

    def met() -> str:  # lengths that a compiler knows by name only have no digits
        return f"input is {format_shape(input.shape)}, weight is {format_shape(weight.shape)}, groups is {groups}"

    for count, what in ((channels, "channels of input"), (filters, "filters of weight")):
        if count % groups:
            raise ValueError(f"groups={groups} does not divide the {count} {what}: {met()}. It must divide both.")
    if depth * groups != channels:
        raise ValueError(
            f"input has {channels} channels but weight expects {depth * groups} (its channels x groups = "
            f"{depth} x {groups}): {met()}. The weight's second axis must be input channels // groups."
        )
    for axis, name in enumerate(AXES):
        length, padding = input.shape[axis - 2], sides[2 * axis : 2 * axis + 2]
        span, padded = dilated_length(taps[axis], dilation[axis]), length + sum(padding)
        if taps[axis] == 0:
            raise ValueError(f"weight has no {name}: {met()}. Filters need at least one tap on each axis.")
        if span > padded:
            dilated = f" ({taps[axis]} taps with dilation {dilation[axis]})" if dilation[axis] > 1 else ""
            raise ValueError(
                f"weight spans {span} {name}{dilated} but the padded input has only {padded} ({length} + padding "
                f"{padding[0]} + {padding[1]}): {met()}. Use smaller filters or more padding."
            )


def check_windows(
    images: str, shape: Sequence[int], window: Sequence[int], padding: Sequence[int], ceil_mode: bool,
    names: Sequence[str],
) -> None:  # fmt: skip
    """Raise ValueError unless windows can slide over the images, so called, of this shape.

    ``names`` are those of window, stride and padding.
    """
    size_name, _, pad_name = names

    def met() -> str:
        return f"{images} {format_shape(shape)}, {size_name} {format_shape(window)}, {pad_name} {format_shape(padding)}"

    for name, length, size, pad in zip(AXES, shape[-2:], window, padding):
        if length == 0:
            raise ValueError(f"{images} has no {name} to pool: {met()}.")
        if pad >= size:
            raise ValueError(
                f"{pad_name} {pad} is not smaller than the {size} {name} of {size_name}: {met()}. "
                "A window must never hold padding alone: pad less."
            )
        if size > length + 2 * pad and not ceil_mode:
            raise ValueError(
                f"{size_name} spans {size} {name} but the padded {images} only {length + 2 * pad} "
                f"({length} + {pad_name} {pad} + {pad}): {met()}. "
                "Use a smaller window, or ceil_mode=True to keep partial windows."
            )


def _check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if (tensor.dtype, tensor.device) != (other.dtype, other.device):
        raise ValueError(
            f"{name} is {_name(tensor.dtype)} on {tensor.device}, but {other_name} is {_name(other.dtype)} on "
            f"{other.device}: they must be alike"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
