"""Activations of pooled maps, within the kernels that find the maxima.

No activation ever decreases, so maxima are found first, and only they are biased and activated.
"""

import triton
import triton.language as tl

ACTIVATIONS = ("identity", "relu", "muting_relu", "tanh", "sigmoid")
"""Functions that never decrease, so that the maxima alone need them.

A muting rectifier also gives windows whose maximum is negative, or NaN, `NO_TAP` for their winner: nothing is scattered
from there, and the gradient needs no other sign of it.
"""

NO_TAP = tl.constexpr(-1)


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


@triton.jit
def finished(maxima, winners, biases, ACTIVATION: tl.constexpr):
    """Tiles of maxima, biased and activated as float32, and of their winners, muted where the activation does that."""
    maxima = maxima.to(tl.float32) + biases
    if ACTIVATION == "muting_relu":
        winners = tl.where(maxima >= 0, winners, NO_TAP)
    return activated(maxima, ACTIVATION), winners
