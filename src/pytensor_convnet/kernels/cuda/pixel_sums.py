"""Sums of each channel over batch, rows and columns: what the gradient of biases is.

Where the batch is innermost, a channel is one run of memory. Programs sum parts of it, a second kernel adds them up in
a fixed order, so results are the same in every run. Floor: maps, and winners, are read once. Not
measured by itself, but as part of training steps (`docs/cuda-mode.md`).
"""

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.activations import NO_TAP
from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options
from pytensor_convnet.kernels.cuda.formats import fits
from pytensor_convnet.kernels.cuda.max_pooling_grad import check_winners
from pytensor_convnet.kernels.cuda.pool_plans import FLOATS, check_operand, on_its_device

BLOCK = 1024
"""How many elements a program adds at a time."""

PROGRAMS = 512
"""About so many programs share the work, where there is enough of it."""


@triton.jit(do_not_specialize=["length", "parts"])
def _sum_parts(
    maps, winners, partial, length, parts, MUTED: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr
):  # fmt: skip
    program = tl.program_id(0)
    channel = (program // parts).to(tl.int64)
    maps += channel * length
    if MUTED:
        winners += channel * length
    total = tl.zeros((BLOCK,), tl.float32)
    await_predecessor(DEPENDENT)
    for start in range(program % parts * BLOCK, length, parts * BLOCK):
        place = start + tl.arange(0, BLOCK)
        value = tl.load(maps + place, mask=place < length, other=0.0).to(tl.float32)
        if MUTED:
            winner = tl.load(winners + place, mask=place < length, other=0)
            if winner.dtype == tl.uint8:
                winner = winner.to(tl.int8)
            value = tl.where(winner == NO_TAP, 0.0, value)
        total += value
    tl.store(partial + program, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["parts"])
def _add_parts(partial, sums, parts, PARTS: tl.constexpr, DEPENDENT: tl.constexpr):
    channel = tl.program_id(0)
    partial += channel.to(tl.int64) * parts
    await_predecessor(DEPENDENT)
    total = tl.zeros((PARTS,), partial.dtype.element_ty)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        total += tl.load(partial + part, mask=part < parts, other=0.0)
    tl.store(sums + channel, tl.sum(total, axis=0))


def add_parts(partial: torch.Tensor) -> torch.Tensor:
    """The sum of each row of a contiguous matrix."""
    channels, parts = partial.shape
    sums = torch.empty(channels, dtype=partial.dtype, device=partial.device)
    block = min(BLOCK, triton.next_power_of_2(parts))
    _add_parts[(channels,)](partial, sums, parts, block, num_warps=4, **launch_options(partial.device))
    return sums


@on_its_device
def sum_over_pixels(maps: torch.Tensor, winners: torch.Tensor | None = None) -> torch.Tensor:
    """The sum of each channel over batch, rows and columns.

    Parameters
    ----------
    maps : tensor of floats, (batch, channels, rows, columns)
        In any format; batch_last is read best.
    winners : tensor, optional
        Of the same shape, as a muting `correlate2d_max_pool2d` gave them: where they number no tap, nothing is added.

    Returns
    -------
    tensor of float32, or of float64 where maps are, (channels,)

    Raises
    ------
    ValueError
        ``maps`` are no bc01 floats, or winners are none of theirs.
    """
    check_operand(FLOATS, None, maps=maps)
    if winners is not None:
        check_winners(winners, maps, "maps")
    tensors = [maps] if winners is None else [maps, winners]
    channels = maps.shape[1]
    length = maps.numel() // max(channels, 1)
    readable = all(fits(tensor, "batch_last") for tensor in tensors) and 0 < length < 2**30
    if not readable or maps.dtype == torch.float64:
        if winners is not None:
            signed = winners.to(torch.int8) if winners.dtype == torch.uint8 else winners
            maps = maps.where(signed != NO_TAP.value, 0)
        return maps.sum((0, 2, 3), dtype=torch.float64 if maps.dtype == torch.float64 else torch.float32)
    parts = min(triton.cdiv(length, BLOCK), triton.cdiv(PROGRAMS, channels))
    partial = torch.empty((channels, parts), dtype=torch.float32, device=maps.device)
    _sum_parts[(channels * parts,)](
        maps, winners, partial, length, parts, winners is not None, BLOCK, num_warps=4, **launch_options(maps.device)
    )
    return add_parts(partial)
