"""Maxima of bfloat16 that know their tap: number and tap as one integer, a *key*, of which the largest is kept.

To compare numbers and select them and their taps takes four instructions a number, the largest of three keys is one.
The upper half of a key orders as the number does: it is its bits, those but the sign inverted where that is set, once
zero was added, after which there is no -0, and no NaN but one, above infinity. The lower half says how early the tap
comes, so that of equals the first wins. A number of bfloat16 has 16 bits: nothing is lost but the sign of a
zero and what tells one NaN from another. `conv_pool_keys.key_values` takes keys apart.
"""

import triton
import triton.language as tl

from pytensor_convnet.kernels.cuda.pool_tiles import working
from pytensor_convnet.kernels.cuda.products import INTERPRETED

FIRST = tl.constexpr(0xFFFF)
"""The lower half of tap 0's keys; that of tap n is n less."""

OUTSIDE = tl.constexpr(0x4000)
"""So much less is that of a tap above or left of the image, which comes before those inside and must not win."""

_TWO_KEYS = tl.constexpr("""{
    .reg .b32 numbers, signs, ones, zeros;
    mov.b32 ones, 0x3f803f80;
    mov.b32 zeros, 0;
    fma.rn.bf16x2 numbers, $2, ones, zeros;
    prmt.b32 signs, numbers, numbers, 0xbb99;
    and.b32 signs, signs, 0x7fff7fff;
    xor.b32 numbers, numbers, signs;
    prmt.b32 $0, numbers, $3, 0x1054;
    prmt.b32 $1, numbers, $4, 0x3254;
}""")
"""Of two numbers in a register: add zero, spread signs over 16 bits, invert, and put the lower halves below."""


@triton.jit
def keys_of(numbers, lower):
    """Keys of a tile of bfloat16; ``lower``, int32, are their lower halves."""
    if INTERPRETED:
        bits = working(numbers).to(tl.int32, bitcast=True)
        magnitudes = bits & 0x7FFF0000
        bits = tl.where(magnitudes == 0, 0, tl.where(magnitudes > 0x7F800000, 0x7FFF0000, bits))
        return (bits ^ ((bits >> 31) & 0x7FFF0000)) | lower
    else:
        numbers, lower = tl.broadcast(numbers, lower)
        return tl.inline_asm_elementwise(_TWO_KEYS, "=r,=r,r,r,r", [numbers, lower], tl.int32, is_pure=True, pack=2)
