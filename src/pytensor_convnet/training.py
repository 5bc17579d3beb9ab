"""Training by stochastic gradient descent, as the Theano tutorial taught it.

The images lie in shared variables. A compiled function takes the number of a minibatch, `givens` put the images of
that minibatch in the place of its symbolic input, and `updates` move the parameters against the gradient.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeAlias

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode, get_mode, predefined_modes
from pytensor.graph.basic import Variable

from pytensor_convnet.datasets import Dataset
from pytensor_convnet.models import Classifier

VALIDATION_FRACTION = 0.1

# Good for LeNet on the digits and on MNIST.
EPOCHS = 20
BATCH_SIZE = 50
LEARNING_RATE = 0.03
MOMENTUM = 0.9

ModeName: TypeAlias = str | Mode | None
"""A mode of PyTensor: its name, the mode itself, or None for the default."""


class InvalidSetting(ValueError):
    """An argument of `train` that cannot work."""


class Diverged(ArithmeticError):
    """The loss became infinite or no number: the parameters run away."""


@dataclass(frozen=True)
class Score:
    """How well a network does on some images.

    Attributes
    ----------
    loss : float
        Mean negative log likelihood of the right classes: 0 is perfect, log(number of classes) is guessing.
    accuracy : float
        The share of images whose most probable class is the right one.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True)
class BatchReport:
    """What is known after a minibatch.

    Attributes
    ----------
    epoch, batch : int
        Which it was, counted from 1.
    epochs, batches : int
        How many there are: epochs altogether, minibatches in each.
    loss : float
        The mean over the epoch so far, each minibatch judged before the network learnt from it.
    seconds : float
        Spent on the epoch so far.
    images_per_second : float
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss : float
        The mean over the epoch, each minibatch judged before the network learnt from it.
    validation : Score
        On the images held out from training.
    seconds : float
        Spent on training, validation not counted.
    images_per_second : float
    """

    epoch: int
    loss: float
    validation: Score
    seconds: float
    images_per_second: float


@dataclass
class History:
    """How a training went.

    Attributes
    ----------
    epochs : list of EpochReport
        One for each epoch that was finished.
    best_epoch : int or None
        Whose parameters were kept; None if no epoch was finished.
    interrupted : bool
        Whether the user stopped it (`KeyboardInterrupt`).
    compile_seconds : float
        From graphs to machine code.
    train, validation, test : Score
        Of the parameters kept: on the images learnt from, on those held out to choose the parameters, and on those
        that neither learning nor choosing saw. Only the last says how good the network is.
    """

    epochs: list[EpochReport] = field(default_factory=list)
    best_epoch: int | None = None
    interrupted: bool = False
    compile_seconds: float = 0.0
    train: Score | None = None
    validation: Score | None = None
    test: Score | None = None

    @property
    def training_seconds(self) -> float:
        """Spent on the epochs that were finished, validation not counted."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def images_per_second(self) -> float:
        """Mean speed of training; 0 if no epoch was finished."""
        images = sum(epoch.images_per_second * epoch.seconds for epoch in self.epochs)
        return images / self.training_seconds if self.epochs else 0.0


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


def moved_copies(images: np.ndarray, shift: int) -> np.ndarray:
    """Images as they are, then all of them moved by ``shift`` pixels up, down, left and right.

    Parameters
    ----------
    images : array, (number, channels, rows, columns)
    shift : int
        0 for no copies.

    Returns
    -------
    array, (number, ...) without copies, else (5 * number, ...)
        What a move leaves empty is zero.

    Examples
    --------
    >>> import numpy as np
    >>> moved_copies(np.array([[[[1, 2], [3, 4]]]]), 1)[1:, 0].tolist()
    [[[3, 4], [0, 0]], [[0, 0], [1, 2]], [[2, 0], [4, 0]], [[0, 1], [0, 3]]]
    """
    if shift == 0:
        return images
    rows, columns = images.shape[2:]
    framed = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)))
    middle, far = shift, 2 * shift
    corners = [(middle, middle), (far, middle), (0, middle), (middle, far), (middle, 0)]
    return np.concatenate([framed[:, :, y : y + rows, x : x + columns] for y, x in corners])


def _ignore(report: object) -> None:
    """What `train` calls where its caller wants no reports."""


def train(
    model: Classifier,
    dataset: Dataset,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    momentum: float = MOMENTUM,
    mode: ModeName = None,
    seed: int = 0,
    shift: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    on_compiled: Callable[[float], object] = _ignore,
    on_batch: Callable[[BatchReport], object] = _ignore,
    on_epoch: Callable[[EpochReport], object] = _ignore,
) -> History:
    """Train a network, keep the best parameters it had, and judge them.

    Part of the training images is held out. After each epoch the network is judged by them, and in the end it is
    given the parameters of the epoch that classified most of them right (of several such, the one of least loss).
    The images for testing decide nothing: they are looked at once, in the end.

    Parameters
    ----------
    model : Classifier
        Its parameters are changed.
    dataset : Dataset
    epochs : int
        How often each image is learnt from.
    batch_size : int
        How many images one step learns from. The last minibatch of an epoch holds what is left over, and makes a
        step that is smaller in proportion.
    learning_rate : float
    momentum : float
        How much of the last step the next one repeats, from 0 to below 1.
    mode : str, Mode or None
        A mode of PyTensor.
    seed : int
        Decides which images are held out and in what order the others come, a new one in each epoch.
    shift : int
        With a positive number, the network learns from each image five times an epoch: as it is, and moved by so many
        pixels up, down, left and right. Small data sets gain by it. Images held out are never moved.
    validation_fraction : float
        The share of training images held out.
    on_compiled : callable, optional
        Called with the seconds that compilation took.
    on_batch, on_epoch : callable, optional
        Called with a `BatchReport` after each minibatch, an `EpochReport` after each epoch. A `KeyboardInterrupt`,
        raised in there or by Ctrl-C, ends training as if the epoch before had been the last. If none was finished
        the network keeps what it has learnt until then.

    Returns
    -------
    History

    Raises
    ------
    InvalidSetting
        An argument cannot work; a ValueError that names it.
    Diverged
        The loss became infinite or no number. The network has the best parameters before that.

    Examples
    --------
    >>> import numpy as np
    >>> from pytensor_convnet.datasets import Dataset
    >>> from pytensor_convnet.models import Lenet
    >>> labels = np.arange(20, dtype="int32") % 2
    >>> images = np.zeros((20, 1, 16, 16), "float32")
    >>> images[labels == 1, :, :, 8:] = 1  # a bright right half
    >>> halves = Dataset("halves", images, labels, images, labels, ("dark", "bright"))
    >>> lenet = Lenet(np.random.default_rng(0), halves.image_shape, halves.number_of_classes)
    >>> train(lenet, halves, epochs=2, batch_size=4, mode="FAST_COMPILE").test.accuracy
    1.0
    """
    held_out = round(validation_fraction * len(dataset.train_images))
    check_settings(model, dataset, epochs, batch_size, learning_rate, momentum, mode, shift, held_out)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset.train_images))
    to_validate, to_learn = order[:held_out], order[held_out:]

    images = moved_copies(dataset.train_images, shift)
    copies = len(images) // len(dataset.train_images)
    to_learn_from = np.concatenate([to_learn + copy * len(dataset.train_images) for copy in range(copies)])
    session = _Session(model, images, np.tile(dataset.train_labels, copies), batch_size, mode)
    history = History(compile_seconds=session.compile_seconds)
    on_compiled(history.compile_seconds)
    best = _BestParameters(model)
    with interrupts_held_back() as raise_if_interrupted:
        try:
            for epoch in range(1, epochs + 1):
                session.data.order.set_value(rng.permutation(to_learn_from))
                for progress in session.learn(epoch, epochs, learning_rate, momentum):
                    on_batch(progress)
                    raise_if_interrupted()
                validation = session.score(to_validate)
                best.offer(epoch, validation)
                report = EpochReport(epoch, progress.loss, validation, progress.seconds, progress.images_per_second)
                history.epochs.append(report)
                on_epoch(report)
                raise_if_interrupted()
        except KeyboardInterrupt:
            history.interrupted = True
        finally:
            best.restore()
        history.best_epoch = best.epoch
        history.train = session.score(to_learn)
        history.validation = session.score(to_validate)
        session.data.replace(dataset.test_images, dataset.test_labels)
        history.test = session.score(np.arange(len(dataset.test_images)))
    return history


@contextmanager
def interrupts_held_back() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that this yields is called, which then raises `KeyboardInterrupt`.

    Within compiled code the interrupt would surface as a SystemError, or between the updates of two parameters. A
    second Ctrl-C does not wait. Where Ctrl-C does not raise `KeyboardInterrupt` in this thread, nothing is changed.
    """
    pressed = 0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            signal.default_int_handler(number, frame)

    def raise_if_interrupted() -> None:
        if pressed:
            raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raise_if_interrupted
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Session:
    """The compiled functions of a training, and the data that they share."""

    def __init__(
        self, model: Classifier, images: np.ndarray, labels: np.ndarray, batch_size: int, mode: ModeName
    ) -> None:
        started = time.perf_counter()
        self.batch_size = batch_size
        self.data = SharedImages(images, labels)
        self.learn_batch = training_function(model, self.data, batch_size, mode)
        self.evaluate_batch = evaluation_function(model, self.data, batch_size, mode)
        # Numba compiles at the first call. This one has rate 0 and momentum 0, and changes nothing.
        self.learn_batch(0, 0, 0)
        self.evaluate_batch(0)
        self.compile_seconds = time.perf_counter() - started

    def learn(self, epoch: int, epochs: int, learning_rate: float, momentum: float) -> Iterator[BatchReport]:
        """Learn from each minibatch of the order that is set, and report after each."""
        images = self.data.number_of_images()
        batches = self.data.number_of_batches(self.batch_size)
        loss, seconds = 0.0, 0.0
        for batch in range(1, batches + 1):
            started = time.perf_counter()
            loss += float(self.learn_batch(batch - 1, learning_rate, momentum))
            seconds += time.perf_counter() - started
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} in epoch {epoch}, minibatch {batch} of {batches}: the steps are too "
                    f"large; lower learning_rate (it is {learning_rate:g}) or momentum (it is {momentum:g})"
                )
            seen = min(batch * self.batch_size, images)
            yield BatchReport(epoch, epochs, batch, batches, loss / seen, seconds, seen / seconds)

    def score(self, positions: np.ndarray) -> Score:
        """Judge the network by the images at ``positions``."""
        self.data.order.set_value(positions)
        return score(self.evaluate_batch, self.data, self.batch_size)


class _BestParameters:
    """The parameters of the epoch that did best on the images held out."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.epoch: int | None = None
        self.rank = (-math.inf, -math.inf)
        self.values: dict[str, np.ndarray] = {}

    def offer(self, epoch: int, validation: Score) -> None:
        """Keep the network's present parameters if none were better."""
        rank = (validation.accuracy, -validation.loss)
        if rank > self.rank:
            self.epoch, self.rank, self.values = epoch, rank, self.model.get_values()

    def restore(self) -> None:
        """Give the network the best parameters, if any epoch was finished."""
        if self.epoch is not None:
            self.model.set_values(self.values)


def check_settings(
    model: Classifier,
    dataset: Dataset,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    mode: ModeName,
    shift: int,
    held_out: int,
) -> None:
    """Raise an `InvalidSetting` that names the first argument of `train` that cannot work.

    Examples
    --------
    >>> check_settings(None, None, 0, 50, 0.1, 0.9, None, 0, 10)
    Traceback (most recent call last):
    ...
    pytensor_convnet.training.InvalidSetting: epochs must be a positive integer, got 0
    """
    for name, count in {"epochs": epochs, "batch_size": batch_size}.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise InvalidSetting(f"{name} must be a positive integer, got {count!r}")
    if not 0 < learning_rate < math.inf:
        raise InvalidSetting(f"learning_rate must be a positive number, got {learning_rate!r}")
    if not 0 <= momentum < 1:
        raise InvalidSetting(f"momentum must be at least 0 and below 1, got {momentum!r}")
    rows, columns = dataset.image_shape[1:]
    if isinstance(shift, bool) or not isinstance(shift, int | np.integer) or not 0 <= shift < min(rows, columns):
        raise InvalidSetting(f"shift must be an integer from 0 to below the {rows} x {columns} pixels, got {shift!r}")
    check_mode(mode)
    images = len(dataset.train_images)
    if not 0 < held_out < images:
        raise InvalidSetting(
            f"validation_fraction must hold out some of the {images} training images and leave some to learn from, "
            f"but it holds out {held_out}"
        )
    if batch_size > images - held_out:
        raise InvalidSetting(
            f"batch_size must be at most the number of images to learn from, got {batch_size} for "
            f"{images - held_out} images ({images} less the {held_out} held out for validation)"
        )
    described = (dataset.image_shape, dataset.number_of_classes)
    if (model.image_shape, model.number_of_classes) != described:
        raise InvalidSetting(
            f"model must be for {dataset.number_of_classes} classes of images {dataset.image_shape} as dataset is, "
            f"got one for {model.number_of_classes} classes of images {model.image_shape}"
        )


def check_mode(mode: ModeName) -> None:
    """Raise an `InvalidSetting` unless PyTensor knows the mode.

    Parameters
    ----------
    mode : str, Mode or None

    Examples
    --------
    >>> check_mode("FAST_RUN")
    >>> check_mode("FASTEST")
    Traceback (most recent call last):
    ...
    pytensor_convnet.training.InvalidSetting: mode must be one of C, CVM, ..., got 'FASTEST'
    """
    try:
        get_mode(mode)
    except ValueError as error:
        known = ", ".join(sorted({*predefined_modes, "FAST_RUN"}))
        raise InvalidSetting(f"mode must be one of {known}, got {mode!r}") from error
