"""Training by stochastic gradient descent, as the Theano tutorial taught it: the loop over epochs and minibatches."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain, islice
from typing import Any

import numpy as np

from pytensor_convnet.augmentation import moved_copies
from pytensor_convnet.datasets import Dataset
from pytensor_convnet.history import BatchReport, EpochReport, History, Score
from pytensor_convnet.interrupts import interrupts_held_back
from pytensor_convnet.learning import BATCH_SIZE, ModeName
from pytensor_convnet.minibatches import SharedImages
from pytensor_convnet.models import Classifier
from pytensor_convnet.placement import placed_images, values_soon
from pytensor_convnet.processes import ALONE, Processes
from pytensor_convnet.profiling import StepProfiler
from pytensor_convnet.sessions import Diverged, Session, StepFailed, failures_told
from pytensor_convnet.settings import InvalidSetting, Settings, check_mode, check_same, check_settings
from pytensor_convnet.training_states import TrainingState

__all__ = ["Diverged", "InvalidSetting", "StepFailed", "check_mode", "train"]

VALIDATION_FRACTION = 0.1

# Good for LeNet on the digits and on MNIST.
EPOCHS = 20
LEARNING_RATE = 0.03
MOMENTUM = 0.9

STEPS_AHEAD = 16
"""How many steps of an epoch are set going before the one before it is reported: two milliseconds of a GPU's time."""


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
    stream: bool | None = None,
    resume: TrainingState | None = None,
    on_compiled: Callable[[float], object] = _ignore,
    on_batch: Callable[[BatchReport], object] = _ignore,
    on_epoch: Callable[[EpochReport], object] = _ignore,
    on_state: Callable[[TrainingState], object] | None = None,
    profiler: StepProfiler | None = None,
    processes: Processes = ALONE,
    overlap_epochs: bool = False,
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
        How often each image is learnt from, the epochs before a resumption included.
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
        The share of training images held out. With 0 all are learnt from, and the last epoch's parameters are kept.
    stream : bool, optional
        Whether a thread brings minibatches from the host's memory while the step before is computed, instead of images
        lying whole where the mode computes; what is learnt is the same. `placed_images` says when that is the default.
    resume : TrainingState, optional
        A training to go on with: of the same network, images and settings, but for ``epochs``, ``mode`` and ``stream``.
        In the same mode what is learnt is the same, to the bit, as if it had never stopped.
    on_compiled : callable, optional
        Called with the seconds that compilation took.
    on_batch, on_epoch : callable, optional
        Called with a `BatchReport` after a minibatch, about ten times a second but after the last of each epoch, and
        with an `EpochReport` after each epoch. A `KeyboardInterrupt`, raised in there or by Ctrl-C, ends training as if
        the epoch before had been the last. If none was finished the network keeps what it has learnt until then.
    on_state : callable, optional
        Called with a `TrainingState` after each epoch, before ``on_epoch``.
    profiler : StepProfiler, optional
        Records some of the first steps.
    processes : Processes, optional
        Those that train together (`distributed.joined`): all call this with the same arguments but for callbacks, each
        learns from its share of every minibatch, and what is reported is that of all.
    overlap_epochs : bool, optional
        Whether a device may be given the first steps of an epoch before it has computed the last ones of the one
        before, so that it need not wait while that is reported. Callbacks must not look at the network then, which may
        be some steps further. Where something else looks at it after each epoch (images held out, ``on_state``), with a
        profiler, with several processes and where minibatches are streamed, this has no effect.

    Returns
    -------
    History

    Raises
    ------
    InvalidSetting
        An argument cannot work, or is not that of the training to resume; a ValueError that names it.
    Diverged
        The loss became infinite or no number. The network has the best parameters before that.
    StepFailed
        A compiled function raised an error, such as a device out of memory. The network has the best parameters, or if
        no epoch was finished those after the last finished step; where a broken device cannot take them, the exception
        has them.

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
    settings = Settings(batch_size, learning_rate, momentum, seed, shift, validation_fraction)
    finished = 0 if resume is None else len(resume.epochs)
    check_settings(settings, model, dataset, epochs, mode, finished, processes)
    record = {} if resume is None and on_state is None else settings.record(model, dataset)
    if resume is not None:
        check_same(resume.settings, record)
    to_learn, to_validate = parts(len(dataset.train_images), settings)
    images = moved_copies(dataset.train_images, shift)
    copies = len(images) // len(dataset.train_images)
    to_learn_from = np.concatenate([to_learn + copy * len(dataset.train_images) for copy in range(copies)])
    data = placed_images(
        [(images, np.tile(dataset.train_labels, copies)), (dataset.test_images, dataset.test_labels)], mode, stream
    )
    session = Session(model, data, to_learn_from, to_validate, settings, mode, processes)
    history = History(compile_seconds=session.compile_seconds)
    best = _BestParameters(model)
    if resume is not None:
        history.epochs.extend(resume.epochs)
        best.resume(resume)
        session.resume(resume)
    session.begin_alike()
    on_compiled(history.compile_seconds)

    def agree(interrupted: bool) -> bool:
        with failures_told("agreeing with the other processes whether to go on"):
            return processes.any(interrupted)

    unseen = not len(to_validate) and on_state is None and profiler is None
    ahead = overlap_epochs and unseen and isinstance(data, SharedImages)
    numbers = range(len(history.epochs) + 1, epochs + 1)
    with interrupts_held_back(agree) as raise_if_interrupted:

        def tell(report: BatchReport) -> None:
            on_batch(report)
            raise_if_interrupted()

        steps = closing(_learnt(session, numbers, ahead, profiler, tell))  # type: ignore[type-var]
        with best.restored_in_the_end(history), steps as learnt:
            for epoch, progress, parameters in learnt:
                validation = session.score(to_validate, f"validation after epoch {epoch}") if len(to_validate) else None
                report = EpochReport(epoch, progress.loss, validation, progress.seconds, progress.images_per_second)
                with failures_told(f"reading the parameters of epoch {epoch}"):
                    best.offer(epoch, validation, parameters)
                    if parameters is not None:
                        parameters.clear()  # copies that take memory of the device
                    history.epochs.append(report)
                    state = None if on_state is None else session.state(record, history.epochs, best.epoch, best.values)
                if on_state is not None and state is not None:
                    on_state(state)
                on_epoch(report)
                raise_if_interrupted()
        history.best_epoch = best.epoch or None
        history.train = session.score(to_learn, "scoring the images learnt from")
        if len(to_validate):
            history.validation = session.score(to_validate, "scoring the images held out")
        history.test = session.score(np.arange(len(dataset.test_images)), "scoring the images for testing", part=1)
    return history


def _learnt(
    session: Session,
    numbers: range,
    ahead: bool,
    profiler: StepProfiler | None,
    tell: Callable[[BatchReport], object],
) -> Iterator[tuple[int, BatchReport, dict[str, Any] | None]]:
    """Learn through epochs: each one's number, the report after its last minibatch, and the parameters by then.

    If ``ahead``, the first steps of the next epoch are set going before a device has computed the last ones of the one
    before: so it has something to do while the host looks at what it did. Parameters are None where no such steps were
    set going: they are still the network's.
    """
    with ExitStack() as opened:

        def begun(number: int, steps: int) -> _Epoch:
            epoch = _Epoch(session, number, numbers[-1], profiler)
            opened.enter_context(closing(epoch))
            epoch.begin(steps)
            return epoch

        following = None
        for number in numbers:
            epoch, following = following or begun(number, 0), None
            report = epoch.set_going(tell)
            parameters = None
            if report is None and ahead and number < numbers[-1]:
                with failures_told(f"reading the parameters of epoch {number}"):
                    parameters = values_soon(session.model.parameters)
                following = begun(number + 1, STEPS_AHEAD)
            report = report or epoch.end(tell)
            epoch.close()
            yield number, report, parameters


class _Epoch:
    """The steps of an epoch, of which some may be set going before anything is told of it."""

    def __init__(self, session: Session, number: int, epochs: int, profiler: StepProfiler | None) -> None:
        self._steps = session.learn(number, epochs, profiler)
        self._batches = session.batches
        self._begun: list[BatchReport | None] = []
        self._failure: Diverged | StepFailed | None = None

    def begin(self, steps: int) -> None:
        """Set so many steps going, but never the last. If one fails, that is told when the others are set going."""
        try:
            self._begun.extend(islice(self._steps, min(steps, self._batches - 1)))
        except (Diverged, StepFailed) as failure:
            self._failure = failure

    def set_going(self, tell: Callable[[BatchReport], object]) -> BatchReport | None:
        """Set all steps going; the report of the last one, if it is known by then."""
        if self._failure is not None:
            raise self._failure
        report = None
        for report in islice(chain(self._begun, self._steps), self._batches):
            if report is not None:
                tell(report)
        return report

    def end(self, tell: Callable[[BatchReport], object]) -> BatchReport:
        """Wait for the last step; its report."""
        report = next(self._steps)
        assert report is not None
        tell(report)
        return report

    def close(self) -> None:
        """Free what brings minibatches."""
        self._steps.close()  # type: ignore[attr-defined]


def parts(images: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the images to learn from and of those held out, of so many.

    Examples
    --------
    >>> to_learn, to_validate = parts(5, Settings(1, 0.1, 0.9, seed=0, shift=0, validation_fraction=0.4))
    >>> len(to_learn), len(to_validate), sorted([*to_learn.tolist(), *to_validate.tolist()])
    (3, 2, [0, 1, 2, 3, 4])
    """
    order = np.random.default_rng(settings.seed).permutation(images)
    held_out = settings.held_out(images)
    return order[held_out:], order[:held_out]


class _BestParameters:
    """The parameters of the epoch that did best on the images held out; of the last, where none are."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.epoch = 0  # none yet
        self.rank = (-math.inf, -math.inf)
        self.values: Mapping[str, np.ndarray] = {}

    def offer(self, epoch: int, validation: Score | None, parameters: Mapping[str, Any] | None) -> None:
        """Keep these parameters, or else the network's present ones, if none were better."""
        rank = self.rank_of(validation)
        if validation is None or rank > self.rank:
            present = self.model.get_values() if parameters is None else parameters
            values = {name: np.asarray(value) for name, value in present.items()}
            self.epoch, self.rank, self.values = epoch, rank, values

    def resume(self, state: TrainingState) -> None:
        """Keep the best parameters of the training that is resumed."""
        validation = state.epochs[state.best_epoch - 1].validation
        self.epoch, self.rank, self.values = state.best_epoch, self.rank_of(validation), state.best_parameters

    def rank_of(self, validation: Score | None) -> tuple[float, float]:
        return self.rank if validation is None else (validation.accuracy, -validation.loss)

    @contextmanager
    def restored_in_the_end(self, history: History) -> Iterator[None]:
        """Give the network the best parameters, if any epoch was finished, however training ends."""
        try:
            yield
        except KeyboardInterrupt:
            history.interrupted = True
        except StepFailed as failure:
            failure.epoch, failure.parameters = self.epoch or None, self.values
            with suppress(Exception):  # a broken device takes nothing
                self.restore()
            raise
        except BaseException:
            self.restore()
            raise
        self.restore()

    def restore(self) -> None:
        if self.epoch:
            self.model.set_values(self.values)
