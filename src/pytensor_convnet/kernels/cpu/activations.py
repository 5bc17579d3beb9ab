"""Biases and activations, in vectors, of runs of maxima that a fused kernel is about to write.

``tanh(x) = 2 t / (1 + t**2)`` with ``t = tanh(x / 2)`` from Lambert's continued fraction ``x / (1 + x**2 / (3 + x**2 /
(5 + ...)))`` (1761), cut after nine levels: in float32 an error of at most 3e-7 of the value, by arithmetic alone,
where the C library takes numbers one by one. Beyond 9 the value is 1 in float32.
"""

from pytensor_convnet.kernels.cpu.emission import emitted
from pytensor_convnet.kernels.cpu.jit import plain_part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES, item_bytes

TANH_NUMERATOR = (1.0, *(c / 34459425 for c in (4729725, 135135, 990, 1)))
TANH_DENOMINATOR = (1.0, *(c / 34459425 for c in (16216200, 945945, 13860, 45)))
"""The ninth convergent over its argument, as polynomials of the argument's square, lowest power first."""

TANH_MOST = 9.0
"""Where tanh is 1 in float32."""


def _polynomial(e, coefficients, s):
    total = e.constant(s.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = e.multiply_add(total, s, e.constant(s.type, coefficient))
    return total


def _identity(e, x):
    return x


def _relu(e, x):
    return e.select(x < 0, e.constant(x.type, 0), x)


def _tanh(e, x):
    most = e.constant(x.type, TANH_MOST)
    y = e.select(x > TANH_MOST, most, e.select(x < -TANH_MOST, e.constant(x.type, -TANH_MOST), x)) * 0.5
    s = y * y
    # t = u / v, and 2 t / (1 + t**2) with one division, which takes as long as ten products.
    u, v = y * _polynomial(e, TANH_NUMERATOR, s), _polynomial(e, TANH_DENOMINATOR, s)
    return (u + u) * v / e.multiply_add(v, v, u * u)


_EMITTERS = {"identity": _identity, "relu": _relu, "tanh": _tanh}

ACTIVATIONS = {name: number for number, name in enumerate(_EMITTERS)}
"""The number of each activation, as compiled code takes it; tanh, the last, is for float32."""


@emitted(arrays=1)
def activate_run(e, vector, place, count, bias, activation):
    """Replace ``count`` numbers at the address ``place`` by the activation of their sum with the number at ``bias``."""
    item = item_bytes(vector)
    shift = e.splat(vector, e.load(vector.element, bias))
    whole = count // vector.count * vector.count
    at, left = place + whole * item, count - whole
    for name, function in _EMITTERS.items():
        with e.when(activation.equals(ACTIVATIONS[name])):
            with e.range(0, whole * item, VECTOR_BYTES) as offset:
                e.store(place + offset, function(e, e.load(vector, place + offset) + shift))
            with e.when(left > 0):
                x = e.load_first(at, left, e.constant(vector, 0)) + shift
                e.store_first(at, left, function(e, x))


_COUNT, _TANH = len(ACTIVATIONS), ACTIVATIONS["tanh"]
_PROBLEM = "activation must be a number of ACTIVATIONS"
_FLOAT32_PROBLEM = f"{_PROBLEM}, and tanh takes float32"


@plain_part
def check_activation(maxima, activation):
    """Raise ValueError unless there is such an activation for floats as ``maxima`` holds."""
    if activation < 0 or activation >= _COUNT:
        raise ValueError(_PROBLEM)
    if maxima.itemsize > 4 and activation == _TANH:
        raise ValueError(_FLOAT32_PROBLEM)
