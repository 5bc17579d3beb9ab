"""Training by stochastic gradient descent, as the Theano tutorial taught it: the loop over epochs and minibatches."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
from pytensor.compile.mode import get_mode, predefined_modes

from pytensor_convnet.datasets import Dataset
from pytensor_convnet.history import BatchReport, EpochReport, History, Score
from pytensor_convnet.learning import BATCH_SIZE, ModeName, SharedImages, evaluation_function, score, training_function
from pytensor_convnet.models import Classifier

VALIDATION_FRACTION = 0.1

# Good for LeNet on the digits and on MNIST.
EPOCHS = 20
LEARNING_RATE = 0.03
MOMENTUM = 0.9


class InvalidSetting(ValueError):
    """An argument of `train` that cannot work."""


class Diverged(ArithmeticError):
    """The loss became infinite or no number: the parameters run away."""


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
