"""The symbolic half of training: loss, updates, and the compiled functions for a minibatch.

The images lie in shared variables. A compiled function takes the number of a minibatch, `givens` put the images of
that minibatch in the place of its symbolic input, and `updates` move the parameters against the gradient.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable

from pytensor_convnet.history import Score
from pytensor_convnet.models import Classifier

BATCH_SIZE = 50

ModeName: TypeAlias = str | Mode | None
"""A mode of PyTensor: its name, the mode itself, or None for the default."""


class SharedImages:
    """Labelled images in shared variables, from which an index selects a minibatch.

    The images stay where they are. What is shuffled, or restricted to a part, is `order`: the positions of images in
    the order in which minibatches take them.

    Parameters
    ----------
    images : float32 array, (number, channels, rows, columns)
    labels : integer array, (number,)

    Examples
    --------
    >>> import numpy as np
    >>> data = SharedImages(np.zeros((5, 1, 2, 2), "float32"), np.array([4, 3, 2, 1, 0]))
    >>> data.number_of_batches(2)  # of 2, 2 and 1 images
    3
    >>> _, labels = data.minibatch(1, batch_size=2)
    >>> labels.eval()
    array([2, 1], dtype=int32)
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = pytensor.shared(images, name="all images", shape=(None, *images.shape[1:]), borrow=True)
        self.labels = pytensor.shared(labels.astype(np.int32), name="all labels", shape=(None,))
        self.order = pytensor.shared(np.arange(len(labels)), name="order", shape=(None,))

    def replace(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Put other images in their place; functions that were compiled for the old ones run on the new ones."""
        self.images.set_value(images, borrow=True)
        self.labels.set_value(labels.astype(np.int32))
        self.order.set_value(np.arange(len(labels)))

    def number_of_images(self) -> int:
        """How many images `order` holds."""
        return len(self.order.get_value(borrow=True))

    def number_of_batches(self, batch_size: int) -> int:
        """How many minibatches `order` makes; the last may be smaller."""
        return math.ceil(self.number_of_images() / batch_size)

    def minibatch(self, index: Any, batch_size: int) -> tuple[Variable, Variable]:
        """The images and labels of minibatch ``index``, symbolic like the index."""
        positions = self.order[index * batch_size : (index + 1) * batch_size]
        return self.images[positions], self.labels[positions]


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


def momentum_updates(
    parameters: Mapping[str, Any], gradients: Mapping[str, Variable], learning_rate: Variable, momentum: Variable
) -> dict[Any, Variable]:
    """Updates that move parameters downhill, with a memory of the way they came.

    Each parameter has a velocity, at first zero: ``velocity = momentum * velocity - learning_rate * gradient``, and
    ``parameter = parameter + velocity``.

    Parameters
    ----------
    parameters : mapping of str to shared variable
    gradients : mapping of str to tensor
        The gradient for each.
    learning_rate, momentum : scalar tensors

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
    updates = {}
    for name, parameter in parameters.items():
        velocity = pytensor.shared(np.zeros_like(parameter.get_value()), name=f"velocity of {name}")
        new_velocity = momentum * velocity - learning_rate * gradients[name]
        updates[velocity] = new_velocity
        updates[parameter] = parameter + new_velocity
    return updates


def training_function(model: Classifier, data: SharedImages, batch_size: int, mode: ModeName = None) -> Any:
    """Compile the function that learns from one minibatch.

    Parameters
    ----------
    model : Classifier
    data : SharedImages
    batch_size : int
    mode : str, Mode or None

    Returns
    -------
    compiled function of (index, learning_rate, momentum)
        It updates the model's parameters, and returns the sum of the minibatch's losses before.

    Notes
    -----
    The cost is the sum of losses divided by ``batch_size``, for the last and smaller minibatch of an epoch as well:
    every image has the same weight, and few images make a small step instead of a noisy one.
    """
    index = pt.lscalar("index")
    learning_rate, momentum = pt.fscalars("learning_rate", "momentum")
    images = pt.tensor("images", shape=(None, *model.image_shape), dtype="float32")
    labels = pt.ivector("labels")
    loss = negative_log_likelihood(model.log_probabilities(images), labels).sum()
    gradients = pytensor.grad(loss / np.float32(batch_size), list(model.parameters.values()))
    updates = momentum_updates(
        model.parameters, dict(zip(model.parameters, gradients, strict=True)), learning_rate, momentum
    )
    these_images, these_labels = data.minibatch(index, batch_size)
    return pytensor.function(
        [index, learning_rate, momentum],
        loss,
        updates=updates,
        givens={images: these_images, labels: these_labels},
        mode=mode,
        allow_input_downcast=True,  # a learning rate of 0.1 has no exact float32
    )


def evaluation_function(model: Classifier, data: SharedImages, batch_size: int, mode: ModeName = None) -> Any:
    """Compile the function that judges a network by one minibatch.

    Parameters
    ----------
    model : Classifier
    data : SharedImages
    batch_size : int
    mode : str, Mode or None

    Returns
    -------
    compiled function of (index)
        It returns the sum of the minibatch's losses and how many of its images were classified right.
    """
    index = pt.lscalar("index")
    images = pt.tensor("images", shape=(None, *model.image_shape), dtype="float32")
    labels = pt.ivector("labels")
    log_probabilities = model.log_probabilities(images)
    loss = negative_log_likelihood(log_probabilities, labels).sum()
    right = pt.eq(pt.argmax(log_probabilities, axis=1), labels).sum()
    these_images, these_labels = data.minibatch(index, batch_size)
    return pytensor.function([index], [loss, right], givens={images: these_images, labels: these_labels}, mode=mode)


def score(evaluate_batch: Any, data: SharedImages, batch_size: int) -> Score:
    """Judge a network by all images that ``data.order`` holds.

    Parameters
    ----------
    evaluate_batch : compiled function
        From `evaluation_function`, for the same ``data`` and ``batch_size``.
    data : SharedImages
    batch_size : int

    Returns
    -------
    Score
    """
    sums = np.zeros(2)
    for batch in range(data.number_of_batches(batch_size)):
        sums += evaluate_batch(batch)
    loss, accuracy = sums / data.number_of_images()
    return Score(float(loss), float(accuracy))


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
    data = SharedImages(images, labels)
    return score(evaluation_function(model, data, batch_size, mode), data, batch_size)
