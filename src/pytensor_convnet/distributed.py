"""Data parallelism: several processes learn together, each from its share of every minibatch.

>>> from pytensor_convnet.distributed import all_mean, joined

Each process computes the gradient of its share; `all_mean` is the mean over processes, and so the gradient of the whole
minibatch. Processes that start with the same parameters and make the same steps keep the same parameters.
"""

from typing import Any

from pytensor.graph.basic import Variable

from pytensor_convnet.joining import joined
from pytensor_convnet.kernels.collectives import LostProcess
from pytensor_convnet.ops import AllMean
from pytensor_convnet.processes import ALONE, Processes

__all__ = ["ALONE", "LostProcess", "Processes", "all_mean", "joined"]


def all_mean(*tensors: Any) -> Variable | list[Variable]:
    """The mean of each tensor over all processes of the run.

    All processes must compute the same function, and call it equally often. What is averaged together travels together,
    one message for each dtype: give all gradients of a step to one `all_mean`.

    Parameters
    ----------
    *tensors : float tensors
        Of any shapes, the same on every process.

    Returns
    -------
    float tensor, or list of them if several were given
        Of the same shapes and dtypes. Without other processes the values are those of ``tensors``.

    Raises
    ------
    ValueError
        No tensor was given, or one whose mean is no tensor of its own dtype.
    LostProcess
        When the function runs: another process has stopped, or does not answer in time.

    Notes
    -----
    The gradient of a mean over processes is the mean over processes of the gradient that reaches it. Parameters of
    different processes are different variables, though they have the same values: the gradient of
    ``all_mean(loss)`` for a parameter is this process's own, and only ``all_mean`` of the gradients is that of all.

    Examples
    --------
    >>> import pytensor, pytensor.tensor as pt
    >>> weights = pytensor.shared(3.0)
    >>> loss = weights**2
    >>> loss, gradient = all_mean(loss, pytensor.grad(loss, weights))
    >>> pytensor.function([], [loss, gradient], mode="FAST_COMPILE")()
    [array(9.), array(6.)]
    """
    means = AllMean().make_node(*tensors).outputs
    return means[0] if len(means) == 1 else means
