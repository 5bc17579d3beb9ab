"""``theano.tensor.nnet.nnet``: activations and costs."""

from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor import special

from pytensor_convnet.compat.mirror import mirror

# --------------------------------------------------------------------------------------------- activations


def softmax(c: Any) -> Variable:
    """The softmax of each row.

    Parameters
    ----------
    c : tensor of shape (..., classes)
        A vector is taken for one row, as in Theano.

    Returns
    -------
    tensor of the same shape; of a vector, (1, classes)
        Exponentials, divided by the sum of their row.
    """
    return special.softmax(_as_rows(c, "softmax"), axis=-1)


def logsoftmax(c: Any) -> Variable:
    """The logarithm of `softmax`, computed without underflow."""
    return special.log_softmax(_as_rows(c, "logsoftmax"), axis=-1)


def softmax_with_bias(x: Any, b: Any) -> Variable:
    """`softmax` of ``x + b``, with ``b`` a vector that is added to each row."""
    return softmax(pt.as_tensor_variable(x) + b)


def _as_rows(c: Any, function: str) -> Variable:
    c = pt.as_tensor_variable(c)
    if c.ndim == 0:
        raise ValueError(f"{function} takes rows of at least one axis, got {c.type}")
    return c.dimshuffle("x", 0) if c.ndim == 1 else c


softmax_op = softmax_graph = softmax
logsoftmax_op = logsoftmax


def relu(x: Any, alpha: Any = 0) -> Variable:
    """The rectifier: ``x`` where it is positive, ``alpha * x`` elsewhere.

    Parameters
    ----------
    x : tensor
    alpha : number or tensor
        The slope for negative values: 0 for a rectifier, a little more for a leaky one.

    Returns
    -------
    tensor of the same shape

    Notes
    -----
    By absolute values, as in Theano, whose gradient at 0 is therefore the mean of both slopes.
    """
    x = pt.as_tensor_variable(x)
    if isinstance(alpha, int | float) and alpha == 0:
        return 0.5 * (x + abs(x))
    alpha = pt.as_tensor_variable(alpha) if not isinstance(alpha, int | float) else alpha
    return 0.5 * (1 + alpha) * x + 0.5 * (1 - alpha) * abs(x)


def elu(x: Any, alpha: Any = 1) -> Variable:
    """The exponential linear unit: ``x`` where it is positive, ``alpha * (exp(x) - 1)`` elsewhere.

    D.-A. Clevert, T. Unterthiner and S. Hochreiter, "Fast and accurate deep network learning by exponential linear
    units" (2015).
    """
    x = pt.as_tensor_variable(x)
    return pt.switch(x > 0, x, alpha * pt.expm1(x))


def selu(x: Any) -> Variable:
    """The scaled exponential linear unit, which keeps mean 0 and variance 1.

    G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks" (2017).
    """
    x = pt.as_tensor_variable(x)
    scale, alpha = (pt.constant(number, dtype=x.dtype) for number in (1.0507009873554805, 1.6732632423543772))
    return scale * elu(x, alpha)


def softsign(x: Any) -> Variable:
    """``x / (1 + |x|)``."""
    x = pt.as_tensor_variable(x)
    return x / (1.0 + abs(x))


# --------------------------------------------------------------------------------------------- costs


def binary_crossentropy(output: Any, target: Any) -> Variable:
    """The cross-entropy of Bernoulli variables, one by one.

    Parameters
    ----------
    output : tensor
        The probabilities that a model gives.
    target : tensor of the same shape
        The true ones.

    Returns
    -------
    tensor of the same shape
        ``-(target * log(output) + (1 - target) * log(1 - output))``
    """
    output = pt.as_tensor_variable(output)
    return -(target * pt.log(output) + (1.0 - target) * pt.log(1.0 - output))


def sigmoid_binary_crossentropy(output: Any, target: Any) -> Variable:
    """`binary_crossentropy` of ``sigmoid(output)``, computed without overflow."""
    output = pt.as_tensor_variable(output)
    return pt.softplus(-abs(output)) + output * ((output > 0) - target)


def categorical_crossentropy(coding_dist: Any, true_dist: Any) -> Variable:
    """The cross-entropy of each row.

    Parameters
    ----------
    coding_dist : tensor of shape (..., classes)
        The probabilities that a model gives.
    true_dist : tensor of the same shape, or integer tensor of shape (...)
        The true probabilities, or the true classes.

    Returns
    -------
    tensor of shape (...)
        ``-sum(true_dist * log(coding_dist))``, or minus the logarithm of the true class's probability.

    Raises
    ------
    ValueError
        If the numbers of axes do not fit.
    """
    coding_dist, true_dist = pt.as_tensor_variable(coding_dist), pt.as_tensor_variable(true_dist)
    if true_dist.ndim == coding_dist.ndim:
        return -pt.sum(true_dist * pt.log(coding_dist), axis=-1)
    if true_dist.ndim == coding_dist.ndim - 1:
        return crossentropy_categorical_1hot(coding_dist, true_dist)
    raise ValueError(
        f"true_dist must have as many axes as coding_dist, or one less (classes), "
        f"got {true_dist.type} and {coding_dist.type}"
    )


def crossentropy_categorical_1hot(coding_dist: Any, true_one_of_n: Any) -> Variable:
    """Minus the logarithm of the true class's probability, for each row.

    Parameters
    ----------
    coding_dist : tensor of shape (batch, classes)
    true_one_of_n : integer tensor of shape (batch,)

    Returns
    -------
    tensor of shape (batch,)
    """
    probabilities, classes = pt.as_tensor_variable(coding_dist), pt.as_tensor_variable(true_one_of_n)
    if probabilities.ndim == 2:
        return -pt.log(probabilities)[pt.arange(classes.shape[0]), classes]
    return -pt.take_along_axis(pt.log(probabilities), classes[..., None], axis=-1)[..., 0]


def crossentropy_softmax_argmax_1hot_with_bias(x: Any, b: Any, y_idx: Any) -> tuple[Variable, Variable, Variable]:
    """Cross-entropy, softmax and its largest class, for each row of ``x + b``.

    Parameters
    ----------
    x : tensor of shape (batch, classes)
    b : tensor of shape (classes,)
    y_idx : integer tensor of shape (batch,)
        The true classes.

    Returns
    -------
    (tensor of shape (batch,), tensor of shape (batch, classes), integer tensor of shape (batch,))
    """
    logits = pt.as_tensor_variable(x) + b
    classes = pt.as_tensor_variable(y_idx)
    cost = -logsoftmax(logits)[pt.arange(classes.shape[0]), classes]
    return cost, softmax(logits), pt.argmax(logits, axis=-1)


def crossentropy_softmax_1hot_with_bias(x: Any, b: Any, y_idx: Any) -> tuple[Variable, Variable]:
    """The first two of `crossentropy_softmax_argmax_1hot_with_bias`."""
    return crossentropy_softmax_argmax_1hot_with_bias(x, b, y_idx)[:2]


def crossentropy_softmax_1hot(x: Any, y_idx: Any) -> tuple[Variable, Variable]:
    """The first two of `crossentropy_softmax_argmax_1hot_with_bias`, without a bias."""
    return crossentropy_softmax_argmax_1hot_with_bias(x, 0, y_idx)[:2]


def crossentropy_softmax_max_and_argmax_1hot_with_bias(x: Any, b: Any, y_idx: Any) -> tuple[Variable, ...]:
    """Cross-entropy, softmax, its largest probability and that one's class, for each row of ``x + b``."""
    cost, probabilities, classes = crossentropy_softmax_argmax_1hot_with_bias(x, b, y_idx)
    return cost, probabilities, pt.max(probabilities, axis=-1), classes


def crossentropy_softmax_max_and_argmax_1hot(x: Any, y_idx: Any) -> tuple[Variable, ...]:
    """`crossentropy_softmax_max_and_argmax_1hot_with_bias` without a bias."""
    return crossentropy_softmax_max_and_argmax_1hot_with_bias(x, 0, y_idx)


def confusion_matrix(actual: Any, pred: Any) -> tuple[Variable, Variable]:
    """How often each class was taken for each.

    Parameters
    ----------
    actual, pred : integer tensors of shape (batch,)
        True and predicted classes.

    Returns
    -------
    (matrix, vector)
        Counts, one row a true class and one column a predicted one, and the sorted classes that occur.
    """
    actual, pred = pt.as_tensor_variable(actual), pt.as_tensor_variable(pred)
    if actual.ndim != 1 or pred.ndim != 1:
        raise ValueError(f"actual and pred must be vectors of classes, got {actual.type} and {pred.type}")
    classes = pt.unique(pt.concatenate([actual, pred]))
    is_actual = pt.eq(actual[:, None], classes[None, :]).astype("int64")
    is_predicted = pt.eq(pred[:, None], classes[None, :]).astype("int64")
    return pt.dot(is_actual.T, is_predicted), classes


# --------------------------------------------------------------------------------------------- columns


def prepend_scalar_to_each_row(val: Any, mat: Any) -> Variable:
    """A matrix with a first column of ``val`` more."""
    mat = pt.as_tensor_variable(mat)
    column = pt.alloc(pt.as_tensor_variable(val).astype(mat.dtype), mat.shape[0], 1)
    return pt.concatenate([column, mat], axis=1)


def prepend_0_to_each_row(mat: Any) -> Variable:
    """A matrix with a first column of zeros more."""
    return prepend_scalar_to_each_row(0, mat)


def prepend_1_to_each_row(mat: Any) -> Variable:
    """A matrix with a first column of ones more."""
    return prepend_scalar_to_each_row(1, mat)


__getattr__, __dir__ = mirror(__name__, "pytensor_convnet.compat.theano.tensor.nnet.sigm", "pytensor.tensor.special")
