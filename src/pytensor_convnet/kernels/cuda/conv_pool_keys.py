"""Maxima that know where they come from: a map and its tap as one integer, a *key*, of which the largest is kept.

Comparing and selecting takes longer than the product if each maximum drags its tap along. A key orders as the numbers
do: it is the bits of a float, those but the sign inverted where that is set, and in place of its last few bits how
early the tap comes. Maxima are therefore exact to 1 in 2**19 for windows of 3 x 3, and maps that are closer than that
count as equal, of which the first wins. NaN is above infinity, as it must be.

Who will rectify a maximum asks only for the largest number that is not negative. Then no bits are inverted.
"""

import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.products import INTERPRETED

MOST_TAPS = 31
"""Windows of more taps would take too many bits of a key."""


@triton.jit
def keys_of(values, inside, tap, RECTIFIED: tl.constexpr, TAP_BITS: tl.constexpr):
    """Integers that order as float32 ``values`` do, NaN above all, and among equals the earlier tap first.

    Of a pixel outside of the maps they are less than all others. If ``RECTIFIED`` those of negative numbers are less
    than 0, in whichever order.
    """
    if INTERPRETED:  # a GPU's NaN has no sign, a CPU's may
        values = tl.where(values == values, values, float("nan"))
    ones: tl.constexpr = (1 << TAP_BITS) - 1
    bits = values.to(tl.int32, bitcast=True)
    if not RECTIFIED:
        bits = bits ^ ((bits >> 31) & (0x7FFFFFFF - ones))
    return (bits & tl.where(inside, -1 - ones, 0)) | tl.where(inside, ones - tap, -(2**31))


@triton.jit
def key_values(keys, TAP_BITS: tl.constexpr):
    """The numbers of `keys_of`, their last bits zero, and the taps."""
    ones: tl.constexpr = (1 << TAP_BITS) - 1
    bits = (keys ^ ((keys >> 31) & (0x7FFFFFFF - ones))) & (-1 - ones)
    return bits.to(tl.float32, bitcast=True), ones - (keys & ones)


@triton.jit
def are_numbers(keys, TAP_BITS: tl.constexpr):
    """Whether keys of what is rectified are of maps, and not of NaN: more than 0, and at most infinity's."""
    return (keys - 1).to(tl.uint32) < 0x7F800000 + (1 << TAP_BITS) - 1


@triton.jit
def along_lines(values, IMAGES_FIRST: tl.constexpr):
    """Values of each line of a product, so shaped that the keys of all its filters and images meet them."""
    if IMAGES_FIRST:
        values = values[None, :, None]
    else:
        values = values[:, None, None]
    return values


@triton.jit
def largest_of_lines(keys, IMAGES_FIRST: tl.constexpr):
    """The largest key of each filter and image."""
    return tl.max(keys, axis=1 if IMAGES_FIRST else 0)
