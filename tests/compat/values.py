"""What the tests of the mirrors share."""

import numpy as np
import pytensor
import pytensor.tensor as pt


def value_of(*variables):
    """The values of variables without inputs, by PyTensor's Python linker; one, or a list."""
    values = pytensor.function([], list(variables), mode="FAST_COMPILE")()
    return values[0] if len(values) == 1 else values


def gradient_of(function, *arrays):
    """The gradients of the sum of ``function(*arrays)``, weighted differently for each entry."""
    variables = [pt.as_tensor(array).copy() for array in arrays]
    result = function(*variables)
    weights = pt.cos(pt.arange(result.size).reshape(result.shape)).astype(result.dtype)
    return pytensor.grad((weights * result).sum(), variables)


def numbers(*shape, dtype="float64", seed=0):
    """Normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)
