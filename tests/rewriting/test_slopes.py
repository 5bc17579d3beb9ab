"""Bounds on slopes: what never decreases is recognised in any spelling, and nothing else is."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet.rewriting.slopes import never_decreases, slopes_of
from tests.ops.common import PYTHON

bias = pt.tensor("bias", dtype="float64", shape=(None,)).dimshuffle("x", 0, "x", "x")
other = pt.tensor4("other", dtype="float64")

RISING = {
    "tanh": pt.tanh,
    "sigmoid": pt.sigmoid,
    "softplus": pt.softplus,
    "exp": pt.exp,
    "expm1": pt.expm1,
    "erf": pt.erf,
    "arctan": pt.arctan,
    "floor": pt.floor,
    "maximum": lambda x: pt.maximum(x, 0),
    "minimum": lambda x: pt.minimum(bias, x),
    "half": lambda x: 0.5 * (x + abs(x)),
    "half-of-sum": lambda x: 0.5 * (x + bias + abs(x + bias)),
    "switch": lambda x: pt.switch(x > 0, x, 0),
    "switch-other-way": lambda x: pt.switch(x <= 0, 0, x),
    "product-with-condition": lambda x: x * (x > 0),
    "leaky": lambda x: pt.maximum(x, 0.1 * x),
    "leaky-switch": lambda x: pt.switch(x >= 0, x, 0.1 * x),
    "leaky-theano": lambda x: 0.55 * x + 0.45 * abs(x),
    "elu": lambda x: pt.switch(x > 0, x, 2 * pt.expm1(x)),
    "elu-exp": lambda x: pt.switch(x > 0, x, pt.exp(x) - 1),
    "clip": lambda x: pt.clip(x, -1, 2),
    "scaled": lambda x: x * 3 / 2,
    "scaled-channels": lambda x: x * np.array([0.5, 2.0, 3.0]).reshape(1, 3, 1, 1),
    "bias": lambda x: x + bias,
    "minus-bias": lambda x: x - bias,
    "turned-twice": lambda x: -pt.tanh(-x),
    "chain": lambda x: pt.tanh(2 * pt.maximum(x + bias, 0) - 1),
    "x-and-tanh": lambda x: x - pt.tanh(x),
}

NOT_RISING = {
    "sin": pt.sin,
    "square": lambda x: x**2,
    "abs": abs,
    "neg": lambda x: -x,
    "log": pt.log,
    "sqrt": pt.sqrt,
    "reciprocal": lambda x: 1 / x,
    "negative-scale": lambda x: -2 * x,
    "negative-divisor": lambda x: x / -2,
    "some-negative-channels": lambda x: x * np.array([0.5, -2.0, 3.0]).reshape(1, 3, 1, 1),
    "unknown-scale": lambda x: x * bias,
    "pixelwise-constant-scale": lambda x: x * np.linspace(1, 2, 12).reshape(1, 1, 3, 4),
    "pixelwise-constant-bias": lambda x: x + np.linspace(1, 2, 12).reshape(1, 1, 3, 4),
    "pixelwise-constant-divisor": lambda x: x / np.linspace(1, 2, 12).reshape(1, 1, 3, 4),
    "pixelwise-scale": lambda x: x * other,
    "pixelwise-bias": lambda x: x + other,
    "maximum-of-two": lambda x: pt.maximum(x, other),
    "steep-leak": lambda x: 0.4 * x + 0.6 * abs(x),
    "switch-with-a-step-down": lambda x: pt.switch(x > 0, x, 1),
    "switch-elsewhere": lambda x: pt.switch(x > 1, x, 0),
    "switch-on-another": lambda x: pt.switch(other > 0, x, 0),
    "falling-branch": lambda x: pt.switch(x > 0, x, -x),
    "clip-wrong-way-round": lambda x: pt.clip(x, 2, -1),
    "clip-symbolic": lambda x: pt.clip(x, bias, 2),
    "integers": lambda x: x.astype("int8"),
    "x-and-sin": lambda x: x + pt.sin(x),
    "tanh-less-x": lambda x: pt.tanh(x) - x,
}


@pytest.mark.parametrize("name", RISING)
def test_rising_functions_are_recognised(name):
    x = pt.tensor("x", dtype="float64", shape=(None, 3, None, None))
    y = RISING[name](x)
    assert never_decreases(y, x)
    low, high = slopes_of(y, x)
    grid = np.linspace(-3, 3, 201).reshape(1, 1, 1, -1).repeat(3, axis=1)
    inputs = {x: grid, bias.owner.inputs[0]: np.array([0.3, -1.0, 2.0])}
    values = pytensor.function(list(inputs), y, mode=PYTHON, on_unused_input="ignore")(*inputs.values())
    slopes = np.diff(values) / np.diff(grid)
    assert slopes.min() >= low - 1e-9
    assert slopes.max() <= high + 1e-9


@pytest.mark.parametrize("name", NOT_RISING)
def test_others_are_not(name):
    x = pt.tensor("x", dtype="float64", shape=(None, 3, None, None))
    assert not never_decreases(NOT_RISING[name](x), x)
