"""``theano.tensor.nnet.bn``: batch normalisation.

S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift"
(2015).
"""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.compat.mirror import mirror

Axes = str | Sequence[int]


def batch_normalization(inputs: Any, gamma: Any, beta: Any, mean: Any, std: Any, mode: str = "low_mem") -> Variable:
    """``(inputs - mean) * gamma / std + beta``.

    Parameters
    ----------
    inputs : tensor
        Activations.
    gamma, beta, mean, std : tensors that broadcast against ``inputs``
        Scale, shift, and the statistics of the inputs.
    mode : {'low_mem', 'high_mem'}
        Chose between two ways of computing it in Theano; has no effect.

    Returns
    -------
    tensor of the shape of ``inputs``
    """
    if mode not in ("low_mem", "high_mem"):
        raise ValueError(f"mode must be 'low_mem' or 'high_mem', got {mode!r}")
    inputs, gamma = pt.as_tensor_variable(inputs), pt.as_tensor_variable(gamma)
    return (inputs - mean) * (gamma / std) + beta


def batch_normalization_train(
    inputs: Any,
    gamma: Any,
    beta: Any,
    axes: Axes = "per-activation",
    epsilon: float = 1e-4,
    running_average_factor: float = 0.1,
    running_mean: Any = None,
    running_var: Any = None,
) -> tuple[Variable, ...]:
    """Normalise by the statistics of the batch itself.

    Parameters
    ----------
    inputs : tensor
        Activations.
    gamma, beta : tensors
        Scale and shift: of as many axes as ``inputs``, with length 1 on ``axes``; or without those.
    axes : {'per-activation', 'spatial'} or sequence of int
        Over what the statistics are taken: (0,), (0, 2, 3, ...) or these axes.
    epsilon : float
        Added to the variance; at least 1e-5.
    running_average_factor : float
        The weight of this batch in the running averages.
    running_mean, running_var : tensors like gamma, optional
        The running averages so far; both or neither.

    Returns
    -------
    (out, mean, 1 / sqrt(variance + epsilon)) and, with running averages, (new mean, new variance)
        The new variance takes that of the batch without bias, ``m / (m - 1)`` times the mean square over ``m`` entries.
    """
    inputs = pt.as_tensor_variable(inputs)
    over, kept = _axes(axes, inputs.ndim)
    _check_epsilon(epsilon)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var go together: give both or neither")
    parameters = {"gamma": gamma, "beta": beta}
    if running_mean is not None:
        parameters |= {"running_mean": running_mean, "running_var": running_var}
    full, compact = _with_all_axes(parameters, inputs.ndim, over, kept)
    mean = pt.mean(inputs, axis=over, keepdims=True)
    variance = pt.mean(pt.sqr(inputs - mean), axis=over, keepdims=True)
    invstd = pt.reciprocal(pt.sqrt(variance + epsilon))
    statistics = [mean, invstd]
    if running_mean is not None:
        count = pt.prod(pt.stack([inputs.shape[axis] for axis in over])).astype(inputs.dtype)
        unbiased = variance * count / (count - 1)
        for old, new in ((full["running_mean"], mean), (full["running_var"], unbiased)):
            statistics.append(old * (1 - running_average_factor) + new * running_average_factor)
    if compact:
        statistics = [x.dimshuffle(*kept) for x in statistics]
    return (inputs - mean) * invstd * full["gamma"] + full["beta"], *statistics


def batch_normalization_test(
    inputs: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    axes: Axes = "per-activation",
    epsilon: float = 1e-4,
) -> Variable:
    """Normalise by given statistics: ``(inputs - mean) * gamma / sqrt(var + epsilon) + beta``.

    Parameters
    ----------
    inputs, gamma, beta, axes, epsilon
        As for `batch_normalization_train`.
    mean, var : tensors like gamma
        Usually the running averages.

    Returns
    -------
    tensor of the shape of ``inputs``
    """
    inputs = pt.as_tensor_variable(inputs)
    over, kept = _axes(axes, inputs.ndim)
    _check_epsilon(epsilon)
    parameters = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    p, _ = _with_all_axes(parameters, inputs.ndim, over, kept)
    return (inputs - p["mean"]) * (p["gamma"] / pt.sqrt(p["var"] + epsilon)) + p["beta"]


def _axes(axes: Axes, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes that are averaged over, and the others."""
    if isinstance(axes, str):
        if axes not in ("per-activation", "spatial"):
            raise ValueError(f"axes must be 'per-activation', 'spatial' or a sequence of int, got {axes!r}")
        axes = (0,) if axes == "per-activation" else (0, *range(2, ndim))
    over = tuple(sorted(int(axis) for axis in axes))
    if not over or over[0] < 0 or over[-1] >= ndim:
        raise ValueError(f"axes must be some of 0 to {ndim - 1}, the axes of inputs, got {tuple(axes)}")
    return over, tuple(axis for axis in range(ndim) if axis not in over)


def _check_epsilon(epsilon: float) -> None:
    if epsilon < 1e-5:
        raise ValueError(f"epsilon must be at least 1e-5, got {epsilon}")


def _with_all_axes(parameters: dict[str, Any], ndim: int, over: tuple, kept: tuple) -> tuple[dict[str, Variable], bool]:
    """Parameters with as many axes as the inputs; and whether they came without those averaged over."""
    tensors = {name: pt.as_tensor_variable(value) for name, value in parameters.items()}
    lengths = {tensor.ndim for tensor in tensors.values()}
    if lengths == {ndim}:
        return {name: pt.specify_broadcastable(tensor, *over) for name, tensor in tensors.items()}, False
    if lengths != {len(kept)}:
        given = ", ".join(f"{name} {tensor.ndim}" for name, tensor in tensors.items())
        raise ValueError(
            f"parameters must have {ndim} axes, as inputs, or {len(kept)}, without axes {over}; got {given}"
        )
    pattern = [kept.index(axis) if axis in kept else "x" for axis in range(ndim)]
    return {name: tensor.dimshuffle(*pattern) for name, tensor in tensors.items()}, True


__getattr__, __dir__ = mirror(__name__)
