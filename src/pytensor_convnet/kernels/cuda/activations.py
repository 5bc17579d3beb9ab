"""Activations of pooled maps: within the kernel that finds the maxima, or where these lie.

No activation ever decreases, so maxima are found first, and only they are biased and activated. Where
`conv_pool_kernel` does not find them, `finish` does that in place, and reads and writes them once more.
"""

import torch
import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.dependent_launch import await_predecessor, launch_options

ACTIVATIONS = ("identity", "relu", "muting_relu", "tanh", "sigmoid")
"""Functions that never decrease, so that the maxima alone need them.

A muting rectifier also gives windows whose maximum is negative, or NaN, `NO_TAP` for their winner: nothing is scattered
from there, and the gradient needs no other sign of it.
"""

NO_TAP = tl.constexpr(-1)

FINISHED = 1024
"""How many maxima a program finishes."""


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """A float32 tile activated. NaN stays NaN."""
    if ACTIVATION == "relu" or ACTIVATION == "muting_relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "sigmoid":
        x = 1 / (1 + tl.exp(-x))
    elif ACTIVATION == "tanh":
        square = x * x  # near zero, where the quotient cancels, the series; its next term is below 2**-24 of the value
        near = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
        far = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
        x = tl.where(square < 0.0625, near, tl.where(x < 0, -far, far))
    return x


@triton.jit(do_not_specialize=["size", "inner", "channels"])
def _finish(
    maxima, winners, biases, size, inner, channels, ACTIVATION: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    place = program * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    await_predecessor(DEPENDENT)
    bias = tl.load(biases + place // inner % channels, mask=inside, other=0.0).to(tl.float32)
    result = tl.load(maxima + place, mask=inside, other=0.0).to(tl.float32) + bias
    if ACTIVATION == "muting_relu":
        winner = tl.load(winners + place, mask=inside, other=0)
        if winner.dtype == tl.uint8:
            winner = winner.to(tl.int32)
        tl.store(winners + place, tl.where(result >= 0, winner, NO_TAP).to(winners.dtype.element_ty), mask=inside)
    tl.store(maxima + place, activated(result, ACTIVATION).to(maxima.dtype.element_ty), mask=inside)


def finish(maxima: torch.Tensor, winners: torch.Tensor, biases: torch.Tensor, activation: str) -> None:
    """Bias and activate maxima, and mute winners, where they lie: both dense, in the same format."""
    size = maxima.numel()
    if size:
        _finish[(triton.cdiv(size, FINISHED),)](
            maxima, winners, biases, size, maxima.stride(1), maxima.shape[1], activation, size >= 2**31, FINISHED,
            num_warps=4, **launch_options(maxima.device),
        )  # fmt: skip
