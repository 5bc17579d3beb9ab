"""Local response normalisation across maps on the GPU, as cuda-convnet and AlexNet have it.

    maps[b, c, y, x] = images[b, c, y, x] * denominators[b, c, y, x] ** -power
    denominators[b, c, y, x] = 1 + scale * sum over the neighbours k of c of  images[b, k, y, x] ** 2

where the neighbours are ``size`` channels from c - size // 2 on, as far as there are any; or, ``blocked``, those of the
block of ``size`` channels that c is in. The gradient for the images, given g, that of the maps, is

    g[c] * denominators[c] ** -power - 2 * scale * power * images[c] * sum over those k whose neighbour c is of
        g[k] * images[k] * denominators[k] ** (-power - 1)

and computes the denominators anew, which costs less than to keep them. Floor: two tensors moved forward, three
backward. The neighbours of a number are read again by each of them, but from cache.

In any format the memory of a tensor is a line of numbers, on which the channels of a pixel lie ``step`` apart: one
kernel serves all. Where neighbours in memory are pixels, not channels, the gradient has a second one, which holds the
channels of a pixel in registers, so that each is read and each denominator computed about once.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from pytensor_convnet.geometry import as_count, format_shape
from pytensor_convnet.kernels.cuda.checks import number
from pytensor_convnet.kernels.cuda.formats import empty, is_wide, strides, to_format
from pytensor_convnet.kernels.cuda.pool_plans import FLOATS, check_operand, on_its_device
from pytensor_convnet.kernels.cuda.pool_tiles import no_tensors, working

NUMBERS = 512
"""How many numbers a program computes."""

STRIP, STRIP_NUMBERS = 8, 256
"""Or, where it holds channels in registers, so many of them, of so many pixels."""

MOST_NEIGHBOURS = 9
"""With more of them, registers would not hold the channels."""


@triton.jit
def _places(NUMBERS: tl.constexpr, WIDE: tl.constexpr):
    """Which numbers a program computes."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    return program * NUMBERS + tl.arange(0, NUMBERS)


@triton.jit
def _neighbours(channel, channels, SIZE: tl.constexpr, BLOCKED: tl.constexpr):
    """The first of the neighbours of a channel, and the one after the last."""
    if BLOCKED:
        first = channel // SIZE * SIZE
    else:
        first = channel - SIZE // 2
    return tl.maximum(first, 0), tl.minimum(first + SIZE, channels)


@triton.jit
def _neighbouring(channel, channels, SIZE: tl.constexpr, BLOCKED: tl.constexpr):
    """The first of the channels whose neighbour a channel is, and the one after the last."""
    if BLOCKED:
        first = channel // SIZE * SIZE
    else:
        first = channel + SIZE // 2 - SIZE + 1
    return tl.maximum(first, 0), tl.minimum(first + SIZE, channels)


@triton.jit
def _denominator(
    images, channel, inside, channels, step, SCALE: tl.constexpr, SIZE: tl.constexpr, BLOCKED: tl.constexpr
):
    """The denominator of each number; ``images`` points to the number itself."""
    first, end = _neighbours(channel, channels, SIZE, BLOCKED)
    total = working(tl.zeros(channel.shape, images.dtype.element_ty))
    for k in range(SIZE):
        other = first + k
        value = working(tl.load(images + (other - channel) * step, mask=inside & (other < end), other=0))
        total += value * value
    return 1 + SCALE * total


@triton.jit
def _power(base, exponent: tl.constexpr):
    """Positive numbers to a power."""
    return tl.exp2(exponent * tl.log2(base))


@triton.jit
def _cross_map_norm(
    images, maps, count, channels, step, SCALE: tl.constexpr, POWER: tl.constexpr, SIZE: tl.constexpr,
    BLOCKED: tl.constexpr, WIDE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """For every number: sum the squares of its neighbours, and divide."""
    place = _places(NUMBERS, WIDE)
    inside = place < count
    channel = place // step % channels
    denominator = _denominator(images + place, channel, inside, channels, step, SCALE, SIZE, BLOCKED)
    value = working(tl.load(images + place, mask=inside, other=0)) * _power(denominator, -POWER)
    tl.store(maps + place, value.to(maps.dtype.element_ty), mask=inside)


@triton.jit
def _cross_map_norm_grad(
    images, grads, result, count, channels, step, SCALE: tl.constexpr, POWER: tl.constexpr, SIZE: tl.constexpr,
    BLOCKED: tl.constexpr, WIDE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """For every number: its own share of the gradient, and what comes through those whose neighbour it is."""
    place = _places(NUMBERS, WIDE)
    inside = place < count
    channel = place // step % channels
    first, end = _neighbouring(channel, channels, SIZE, BLOCKED)
    own = working(tl.zeros(channel.shape, images.dtype.element_ty))
    passed = own
    for k in range(SIZE):
        other = first + k
        counts = inside & (other < end)
        at = place + (other - channel) * step
        denominator = _denominator(images + at, other, counts, channels, step, SCALE, SIZE, BLOCKED)
        shrunk = working(tl.load(grads + at, mask=counts, other=0)) * _power(denominator, -POWER)
        own = tl.where(other == channel, shrunk, own)
        passed += shrunk / denominator * working(tl.load(images + at, mask=counts, other=0))
    value = own - 2 * SCALE * POWER * working(tl.load(images + place, mask=inside, other=0)) * passed
    tl.store(result + place, value.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _cross_map_norm_grad_of_strips(
    images, grads, result, pixels, channels, step, SCALE: tl.constexpr, POWER: tl.constexpr, SIZE: tl.constexpr,
    STRIP: tl.constexpr, WIDE: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    """For every strip of channels: their denominators, what each passes on, and the sums of that."""
    strips = tl.cdiv(channels, STRIP)
    place = tl.program_id(0) // strips * NUMBERS + tl.arange(0, NUMBERS)
    if WIDE:
        place = place.to(tl.int64)
    inside = place < pixels
    place = place // step * (channels * step) + place % step
    first = tl.program_id(0) % strips * STRIP + tl.zeros((NUMBERS,), tl.int32)
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = SIZE - 1 - BEFORE
    values = no_tensors()
    for k in tl.static_range(STRIP + 2 * SIZE - 2):
        channel = first + k - SIZE + 1
        there = inside & (channel >= 0) & (channel < channels)
        values = values + (working(tl.load(images + place + channel * step, mask=there, other=0)),)
    shrunk = no_tensors()
    passed = no_tensors()
    for k in tl.static_range(STRIP + SIZE - 1):
        channel = first + k - AFTER
        there = inside & (channel >= 0) & (channel < channels)
        total = values[k] * values[k]
        for n in tl.static_range(1, SIZE):
            total += values[k + n] * values[k + n]
        denominator = 1 + SCALE * total
        grad = working(tl.load(grads + place + channel * step, mask=there, other=0)) * _power(denominator, -POWER)
        shrunk = shrunk + (grad,)
        passed = passed + (grad / denominator * values[k + BEFORE],)
    for k in tl.static_range(STRIP):
        total = passed[k]
        for n in tl.static_range(1, SIZE):
            total += passed[k + n]
        value = shrunk[k + AFTER] - 2 * SCALE * POWER * values[k + SIZE - 1] * total
        mask = inside & (first + k < channels)
        tl.store(result + place + (first + k) * step, value.to(result.dtype.element_ty), mask=mask)


@on_its_device
def cross_map_norm(
    images: torch.Tensor, size: int, scale: float, power: float, blocked: bool = False, memory_format: str | None = None
) -> torch.Tensor:
    """Images divided by a power of the energy of their neighbours among the channels.

    Measured on an H100, float32, 5 of 96 channels: 1.1 (batch-last) to 1.6 (bc01) times the floor; the gradient 0.98
    and 1.14, and 4.9 in channels-last, where it computes denominators again and again.

    Parameters
    ----------
    images : tensor
        bc01, of floats, in any format.
    size : int
        How many neighbours a channel has, itself included.
    scale, power : float
        Weight of their energy, and power of the denominator. (Where a program gives cuda-convnet's weight of the mean,
        ``scale`` is that divided by ``size``.)
    blocked : bool
        Whether neighbours are those of a block.
    memory_format : str, optional
        The format of the result; by default that of ``images``.

    Returns
    -------
    tensor
        Of the shape and dtype of ``images``.

    Raises
    ------
    ValueError
        ``images`` are no bc01 floats, ``size`` is no positive integer, or ``scale`` or ``power`` no number.

    Notes
    -----
    Krizhevsky, Sutskever and Hinton 2012, ImageNet classification with deep convolutional neural networks, section 3.3.
    """
    format = check_operand(FLOATS, memory_format, images=images)
    size, scale, power = _checked(size, scale, power)
    result = empty(images.shape, format, images.dtype, images.device)
    _launch(_cross_map_norm, (to_format(images, format), result), format, size, scale, power, blocked)
    return result


@on_its_device
def cross_map_norm_grad(
    images: torch.Tensor,
    maps: torch.Tensor,
    size: int,
    scale: float,
    power: float,
    blocked: bool = False,
    memory_format: str | None = None,
) -> torch.Tensor:
    """The gradient of `cross_map_norm` for its images, given ``maps``, that of its result.

    Parameters
    ----------
    images, size, scale, power, blocked, memory_format
        As for `cross_map_norm`.
    maps : tensor
        Of the shape and dtype of ``images``, in any format.

    Returns
    -------
    tensor
        Of the shape and dtype of ``images``.

    Raises
    ------
    ValueError
        As for `cross_map_norm`; or ``maps`` have another shape.
    """
    format = check_operand(FLOATS, memory_format, images=images, maps=maps)
    size, scale, power = _checked(size, scale, power)
    if images.shape != maps.shape:
        raise ValueError(
            f"maps are {format_shape(maps.shape)} but images {format_shape(images.shape)}: maps must be the gradient "
            "of cross_map_norm's result, which has the shape of its images"
        )
    result = empty(images.shape, format, images.dtype, images.device)
    tensors = to_format(images, format), to_format(maps, format), result
    if blocked or size > MOST_NEIGHBOURS or format == "channels_last":
        _launch(_cross_map_norm_grad, tensors, format, size, scale, power, blocked)
    else:
        _launch_strips(tensors, format, size, scale, power)
    return result


def _checked(size: Any, scale: Any, power: Any) -> tuple[int, float, float]:
    return as_count(size, "size", least=1), number(scale, "scale"), number(power, "power")


def _launch(kernel: Any, tensors, format: str, size: int, scale: float, power: float, blocked: bool) -> None:
    result = tensors[-1]
    if result.numel():
        kernel[(triton.cdiv(result.numel(), NUMBERS),)](
            *tensors, result.numel(), result.shape[1], strides(result.shape, format)[1],
            SCALE=scale, POWER=power, SIZE=size, BLOCKED=bool(blocked), WIDE=is_wide(result),
            NUMBERS=NUMBERS,
        )  # fmt: skip


def _launch_strips(tensors, format: str, size: int, scale: float, power: float) -> None:
    result = tensors[-1]
    if result.numel():
        channels = result.shape[1]
        pixels = result.numel() // channels
        programs = triton.cdiv(pixels, STRIP_NUMBERS) * triton.cdiv(channels, STRIP)
        _cross_map_norm_grad_of_strips[(programs,)](
            *tensors, pixels, channels, strides(result.shape, format)[1], SCALE=scale, POWER=power,
            SIZE=size, STRIP=STRIP, WIDE=is_wide(result), NUMBERS=STRIP_NUMBERS,
        )  # fmt: skip
