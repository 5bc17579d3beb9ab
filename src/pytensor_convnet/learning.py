"""The symbolic half of training: loss, updates, and the compiled functions for a minibatch.

`minibatches` says what a compiled function takes, and what images and labels it makes of that; `updates` move the
parameters against the gradient. Sums over many minibatches are shared variables too, which the functions add to: where
they lie on a device, many steps run before anyone waits for a number.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import Any, TypeAlias

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable

from pytensor_convnet.distributed import ALONE, Processes, all_mean
from pytensor_convnet.history import Score
from pytensor_convnet.minibatches import LabelledImages, SharedImages
from pytensor_convnet.models import Classifier

BATCH_SIZE = 50

ModeName: TypeAlias = str | Mode | None
"""A mode of PyTensor: its name, the mode itself, or None for the default."""


def negative_log_likelihood(log_probabilities: Variable, labels: Variable) -> Variable:
    """How surprising the right classes are to the network.

    Parameters
    ----------
    log_probabilities : float tensor, (batch, classes)
    labels : integer tensor, (batch,)

    Returns
    -------
    float tensor, (batch,)

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> log_probabilities = pt.log(pt.as_tensor([[0.5, 0.5], [1.0, 0.25]]))
    >>> negative_log_likelihood(log_probabilities, pt.as_tensor([0, 1])).eval().round(2)
    array([0.69, 1.39])
    """
    return -log_probabilities[pt.arange(labels.shape[0]), labels]


def velocities_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A velocity for each parameter: a shared variable like it, at first zero.

    Parameters
    ----------
    parameters : mapping of str to shared variable

    Returns
    -------
    dict of str to shared variable
    """
    return {
        name: pytensor.shared(np.zeros_like(parameter.get_value()), name=f"velocity of {name}")
        for name, parameter in parameters.items()
    }


def momentum_updates(
    parameters: Mapping[str, Any],
    gradients: Mapping[str, Variable],
    learning_rate: Variable,
    momentum: Variable,
    velocities: Mapping[str, Any] | None = None,
) -> dict[Any, Variable]:
    """Updates that move parameters downhill, with a memory of the way they came.

    Each parameter has a velocity: ``velocity = momentum * velocity - learning_rate * gradient``, and
    ``parameter = parameter + velocity``.

    Parameters
    ----------
    parameters : mapping of str to shared variable
    gradients : mapping of str to tensor
        The gradient for each.
    learning_rate, momentum : scalar tensors
    velocities : mapping of str to shared variable, optional
        The velocity of each parameter; by default new ones.

    Returns
    -------
    dict of shared variable to tensor
        For the ``updates`` of `pytensor.function`.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> position = pytensor.shared(1.0)
    >>> gradient = pytensor.grad(position**2, position)
    >>> step = pytensor.function([], updates=momentum_updates({"x": position}, {"x": gradient}, 0.1, 0.5))
    >>> step(), step(), round(float(position.get_value()), 2)
    ([], [], 0.54)
    """
    velocities = velocities_of(parameters) if velocities is None else velocities
    updates = {}
    for name, parameter in parameters.items():
        new_velocity = momentum * velocities[name] - learning_rate * gradients[name]
        updates[velocities[name]] = new_velocity
        updates[parameter] = parameter + new_velocity
    return updates


class Learner:
    """The compiled function that learns from one minibatch, and the shared variables that it works on.

    Parameters
    ----------
    model : Classifier
    data : LabelledImages
        Where minibatches come from.
    batch_size : int
        Of this process.
    mode : str, Mode or None
    processes : Processes, optional
        Those that learn together, each from its share of a minibatch.

    Attributes
    ----------
    step : compiled function
        Takes what ``data.minibatches`` yields, updates the model's parameters, and returns the sum of losses of all
        images since `begin`, each judged before the network learnt from it: a float64 scalar.
    learning_rate, momentum : float32 shared variables
        At first zero: a step changes nothing then, but compiles whatever compiles at the first call.
    velocities : dict of str to shared variable
        Of each parameter.

    Notes
    -----
    The cost is the sum of losses divided by ``batch_size``, for the last and smaller minibatch of an epoch as well:
    every image has the same weight, and few images make a small step instead of a noisy one.
    """

    def __init__(
        self,
        model: Classifier,
        data: LabelledImages,
        batch_size: int,
        mode: ModeName = None,
        processes: Processes = ALONE,
    ) -> None:
        self.velocities = velocities_of(model.parameters)
        self.learning_rate = pytensor.shared(np.zeros((), np.float32), name="learning_rate")
        self.momentum = pytensor.shared(np.zeros((), np.float32), name="momentum")
        self.total = pytensor.shared(np.zeros(()), name="total loss")
        inputs, images, labels = data.symbolic_minibatch()
        loss = negative_log_likelihood(model.log_probabilities(images), labels).sum()
        gradients = pytensor.grad(loss / np.float32(batch_size), list(model.parameters.values()))
        if processes.count > 1:
            loss, *gradients = all_mean(loss, *gradients)
        updates = momentum_updates(
            model.parameters,
            dict(zip(model.parameters, gradients, strict=True)),
            self.learning_rate,
            self.momentum,
            self.velocities,
        )
        total = self.total + processes.count * loss.astype("float64")
        self.step = pytensor.function(inputs, total, updates=updates | {self.total: total}, mode=mode)

    def set_steps(self, learning_rate: float, momentum: float) -> None:
        """Let steps be made like this."""
        self.learning_rate.set_value(np.asarray(learning_rate, np.float32))
        self.momentum.set_value(np.asarray(momentum, np.float32))

    def begin(self) -> None:
        """Begin a new sum of losses."""
        self.total.set_value(np.zeros(()))


class Judge:
    """The compiled function that judges a network by one minibatch, and the sums over minibatches.

    Parameters
    ----------
    model : Classifier
    data : LabelledImages
        Where minibatches come from.
    batch_size : int
        Of this process.
    mode : str, Mode or None
    processes : Processes, optional
        Those that judge together, each by its part of the images.

    Attributes
    ----------
    add : compiled function
        Takes what ``data.minibatches`` yields, and returns, of all minibatches since `score` began, the sum of losses
        and how many images were classified right: a float64 vector.
    """

    def __init__(
        self,
        model: Classifier,
        data: LabelledImages,
        batch_size: int,
        mode: ModeName = None,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.data = data
        self.batch_size = batch_size
        self.sums = pytensor.shared(np.zeros(2), name="judged", shape=(2,))
        inputs, images, labels = data.symbolic_minibatch()
        log_probabilities = model.log_probabilities(images)
        loss = negative_log_likelihood(log_probabilities, labels).sum()
        right = pt.eq(pt.argmax(log_probabilities, axis=1), labels).sum()
        sums = self.sums + pt.stack([loss.astype("float64"), right.astype("float64")])
        self.add = pytensor.function(inputs, sums, updates={self.sums: sums}, mode=mode)

    def score(self) -> Score:
        """Judge the network by all images of the orders that the processes' ``data`` have."""
        self.sums.set_value(np.zeros(2))
        with closing(self.data.minibatches(self.batch_size)) as minibatches:  # type: ignore[type-var]
            for minibatch in minibatches:
                self.add(*minibatch)
        loss, right, count = self.processes.total(np.append(self.sums.get_value(), self.data.count))
        return Score(float(loss / count), float(right / count))


def evaluate(
    model: Classifier, images: np.ndarray, labels: np.ndarray, batch_size: int = 500, mode: ModeName = None
) -> Score:
    """Judge a network by labelled images.

    Parameters
    ----------
    model : Classifier
    images : float32 array, (number, channels, rows, columns)
        Pixels in [0, 1].
    labels : integer array, (number,)
    batch_size : int
        How many images are computed at once; the last minibatch holds what is left over.
    mode : str, Mode or None

    Returns
    -------
    Score
    """
    return Judge(model, SharedImages([(images, labels)]), batch_size, mode).score()
