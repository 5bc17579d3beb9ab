"""Products of tiles in each precision, and the scaling that lets float16 stand for float32.

=========  =========================================================  ==========================
product    how float32 operands are multiplied                        relative error, about
=========  =========================================================  ==========================
native     not at all: operands are bfloat16 or float16               that of the operands' dtype
float16    scaled by powers of two, rounded to float16                3e-4
tf32       rounded to tf32, or cut off (as cuDNN does)                3e-4 to 8e-4
bf16x3     in two bfloat16 each, three products of four               5e-6
ieee       in float32, by fused multiply-adds                         2e-7
=========  =========================================================  ==========================

float16 has tf32's ten bits of mantissa and twice its rate, but reaches only from 6e-5 to 65504. So a power of two
brings an upper bound of each operand's finite magnitudes (`magnitudes`) to just below 2**15: nothing overflows, and
what is lost below is less than 2**-39 of the bound. Infinities and NaN stay what they are.
"""

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, which holds bfloat16 as bits and cannot multiply them."""


DTYPES = {"float16": torch.float16, "bf16x3": torch.bfloat16}
"""What operands of a product are brought to, where that is not their own dtype."""


CHAINS = {"bf16x3": 4096, "ieee": 256}
"""How many products a chain of additions may have before its rounding shows beside that of the operands.

Tensor cores cut off what float32 does not hold, so the error of a chain grows with its length; that of multiply-adds
with its square root. A multiple of the rows and pixels of every tile.
"""


def chain_of(product: str, terms: int) -> int:
    """How long chains are in a sum of so many terms; 0 where one chain will do."""
    longest = CHAINS.get(product, terms)
    return longest if terms > longest else 0


@triton.jit
def add_product(a, b, total, PRODUCT: tl.constexpr):
    """The product of two tiles, added to a float32 total."""
    if INTERPRETED:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    elif PRODUCT == "tf32":
        total = tl.dot(a, b, total, input_precision="tf32")
    else:
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def split(x):
    """A float32 tile as the sum of two bfloat16 ones."""
    high = x.to(tl.bfloat16)
    return high, (x - high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def round_to_tf32(x):
    """A float32 tile rounded to tf32, of which tensor cores would cut off what they do not use."""
    rounded = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < float("inf"), rounded, x)


@triton.jit
def power_of_two(exponent):
    """2 ** exponent in float32, for exponents from -126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exponent_of(x):
    """That of the largest power of two that is no larger than a positive float32."""
    return ((x.to(tl.int32, bitcast=True) >> 23) & 255) - 127


@triton.jit
def scale_exponent(partials, PARTIALS: tl.constexpr):
    """The exponent of the power of two that brings the largest of ``partials`` to between 2**14 and 2**15."""
    largest = tl.max(tl.load(partials + tl.arange(0, PARTIALS)), axis=0)
    return tl.minimum(14 - exponent_of(largest), 126)


@triton.jit
def times_powers_of_two(x, exponent, other):
    """x * 2 ** exponent * 2 ** other, by two factors that are alike.

    So what lies between them is no larger and no smaller than x and the result, where one of the powers may be far out.
    """
    both = exponent + other
    half = both // 2
    return x * power_of_two(half) * power_of_two(both - half)


@triton.jit
def unscaled(total, magnitudes, PARTIALS: tl.constexpr):
    """A product of operands scaled by what `scale_exponent` says of two rows of magnitudes, without these scales."""
    exponent, other = scale_exponent(magnitudes, PARTIALS), scale_exponent(magnitudes + PARTIALS, PARTIALS)
    return times_powers_of_two(total, -exponent, -other)
