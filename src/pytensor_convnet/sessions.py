"""A training while it runs: the compiled functions, the data that they share, and one epoch of steps.

A step on a GPU takes a tenth of a millisecond, and a GPU that is waited for after each would idle half its time. So
steps are only set going here, one after another, and nobody reads a number that is still being computed, but in the end
of an epoch. About ten times a second the sum of losses is read: that of the step that was set going when a report was
due, once it is there, while the device goes on with those that were set going since.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from pytensor_convnet.history import BatchReport, EpochReport, Score
from pytensor_convnet.learning import Judge, Learner, ModeName
from pytensor_convnet.minibatches import LabelledImages, epoch_order
from pytensor_convnet.models import Classifier
from pytensor_convnet.placement import is_cuda
from pytensor_convnet.processes import ALONE, Processes
from pytensor_convnet.profiling import StepProfiler
from pytensor_convnet.random_states import WORDS, generator_of, random_variables, state_words
from pytensor_convnet.settings import Settings
from pytensor_convnet.training_states import TrainingState

REPORT_SECONDS = 0.1
"""About how much time passes between two reports within an epoch."""


class Diverged(ArithmeticError):
    """The loss became infinite or no number: the parameters run away."""


class StepFailed(RuntimeError):
    """A compiled function raised an error in the midst of training.

    Attributes
    ----------
    epoch : int or None
        The best epoch before; None if none was finished.
    parameters : mapping of str to float32 array
        Its parameters; empty if none was finished.
    """

    epoch: int | None = None
    parameters: Mapping[str, np.ndarray] = {}


class Session:
    """The compiled functions of a training, on their data.

    Parameters
    ----------
    model : Classifier
    data : LabelledImages
    to_learn, to_judge : integer array, (number,)
        The positions of the images to learn from, and of those by which the network is judged; maybe none.
    settings : Settings
    mode : str, Mode or None
    processes : Processes, optional
        Those that train together.

    Attributes
    ----------
    judged : LabelledImages
        What `score` looks at.
    compile_seconds : float
    """

    def __init__(
        self,
        model: Classifier,
        data: LabelledImages,
        to_learn: np.ndarray,
        to_judge: np.ndarray,
        settings: Settings,
        mode: ModeName,
        processes: Processes = ALONE,
    ) -> None:
        started = time.perf_counter()
        self.model = model
        self.settings = settings
        self.processes = processes
        self.batch_size = processes.batch_share(settings.batch_size)
        self.to_learn = to_learn
        self.batches = math.ceil(len(to_learn) / settings.batch_size)
        self.learnt = data.with_order(processes.share(to_learn, settings.batch_size))
        self.judged = data.with_order(processes.part(to_judge if len(to_judge) else to_learn))
        self.learner = Learner(model, self.learnt, self.batch_size, mode, processes)
        self.judge = Judge(model, self.judged, self.batch_size, mode, processes)
        # What mode CUDA calls a second time with the same shapes, it captures.
        calls = 2 if is_cuda(mode) else 1
        with failures_told("the first step"):
            self._warm_up(self.learner.step, self.learnt, self.batches, calls)
            self._warm_up(self.judge.add, self.judged, self.judged.number_of_batches(self.batch_size), calls)
        self.learner.set_steps(settings.learning_rate, settings.momentum)
        self.next_order: tuple[int, np.ndarray] | None = None
        self.steps = 0
        self.last_report = (0, started)
        self.last_end = started
        self.next_report: float = 1
        self.compile_seconds = time.perf_counter() - started

    def _warm_up(self, function: Any, data: LabelledImages, batches: int, calls: int) -> None:
        """Call a function with a minibatch of each size: what is compiled at the first call is compiled now.

        Steps of learning have rate 0 and momentum 0 yet, and change nothing.
        """
        for number in {0, max(0, batches - 1)}:
            with closing(data.minibatches(self.batch_size, [number])) as minibatches:  # type: ignore[type-var]
                for minibatch in minibatches:
                    for _ in range(calls):
                        np.asarray(function(*minibatch))

    def learn(self, epoch: int, epochs: int, profiler: StepProfiler | None = None) -> Iterator[BatchReport | None]:
        """Learn from each minibatch, in the order of this epoch.

        Parameters
        ----------
        epoch, epochs : int
            Which epoch it is, counted from 1, and how many there are to be.
        profiler : StepProfiler, optional
            Watches the steps.

        Yields
        ------
        BatchReport or None
            After each step; None where there is nothing to report yet. Where a device computes, reports are of a step
            before, whose loss is known. Where that of the last step is not known yet, it gives None too and is followed
            by its report, which waits for that to be computed: until it is asked for, the next epoch may be begun.

        Raises
        ------
        Diverged, StepFailed
        """
        started = time.perf_counter()
        batches, batch = self.batches, 0
        self.last_report = (self.steps, started)
        with failures_told(lambda: f"epoch {epoch}, minibatch {batch} of {batches}"):
            self.learnt.set_order(self._order(epoch))
            self.learner.begin()
            # As many for every process, though a share of the last may be empty.
            minibatches = self.learnt.minibatches(self.batch_size, range(batches))
            if profiler is not None:
                minibatches = profiler.watch(minibatches)
            step = self.learner.step
            awaited: tuple[Any, int, int] | None = None  # the loss to be reported, its minibatch, and its step
            with closing(minibatches):  # type: ignore[type-var]
                for batch, minibatch in enumerate(minibatches, start=1):
                    total = step(*minibatch)
                    self.steps += 1
                    is_last = batch == batches
                    if is_last and epoch < epochs:
                        # While a device still computes.
                        self.next_order = epoch + 1, self._order(epoch + 1)
                    if is_last or (awaited is None and self.steps >= self.next_report):
                        awaited = total, batch, self.steps
                    if isinstance(total, np.ndarray | np.generic):  # to look at it costs nothing
                        self._check_loss(float(total), epoch, batch, batches)
                    if awaited is None or not self._is_known(awaited[0]):
                        yield None
                        if not is_last:
                            continue
                    assert awaited is not None
                    (number, reported, steps), awaited = awaited, None
                    loss = float(number)
                    self._check_loss(loss, epoch, reported, batches)
                    yield self._report(epoch, epochs, reported, batches, loss, started, steps)

    def _order(self, epoch: int) -> np.ndarray:
        """This process's share of the order of images of an epoch, maybe drawn before."""
        if self.next_order is not None and self.next_order[0] == epoch:
            return self.next_order[1]
        order = epoch_order(self.to_learn, self.settings.seed, epoch)
        return self.processes.share(order, self.settings.batch_size)

    def _is_known(self, number: Any) -> bool:
        """Whether a number can be read without waiting. Several processes wait, lest some report and others do not."""
        is_ready = getattr(number, "is_ready", None)
        return self.processes.count > 1 or is_ready is None or is_ready()

    def _check_loss(self, loss: float, epoch: int, batch: int, batches: int) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} in epoch {epoch}, by minibatch {batch} of {batches}: the steps are too large; "
                f"lower learning_rate (it is {self.settings.learning_rate:g}) or momentum (it is "
                f"{self.settings.momentum:g})"
            )

    def _report(
        self, epoch: int, epochs: int, batch: int, batches: int, loss: float, started: float, steps: int
    ) -> BatchReport:
        now = time.perf_counter()
        self._plan_next_report(now, steps)
        seen = min(batch * self.settings.batch_size, len(self.to_learn))
        seconds = now - max(started, self.last_end)  # maybe begun before the last epoch ended
        if batch == batches:
            self.last_end = now
        return BatchReport(epoch, epochs, batch, batches, loss / seen, seconds, seen / seconds)

    def _plan_next_report(self, now: float, steps: int) -> None:
        """Choose the next step to report, by the time that those since the last report took, on average of processes.

        ``steps`` are done by now, and maybe more set going.

        Processes do not look at their clocks instead, since all must read the loss after the same steps: where one
        finds that it is no number, or that Ctrl-C was pressed, all must.
        """
        last_steps, last_time = self.last_report
        if steps <= last_steps:  # of an epoch that ended when the next one had begun
            return
        seconds = self.processes.total(now - last_time) / self.processes.count / (steps - last_steps)
        self.last_report = (steps, now)
        self.next_report = self.steps + max(1, int(REPORT_SECONDS / seconds))

    def score(self, positions: np.ndarray, what: str, part: int = 0) -> Score:
        """Judge the network by the images at ``positions`` of a part; ``what`` names that in a `StepFailed`."""
        with failures_told(what):
            self.judged.set_order(self.processes.part(positions), part)
            return self.judge.score()

    def state(
        self,
        record: Mapping[str, str | int | float],
        epochs: Sequence[EpochReport],
        best_epoch: int,
        best_parameters: Mapping[str, np.ndarray],
    ) -> TrainingState:
        """All that is needed to go on from here."""
        generators = [variable.get_value() for variable in self._random_variables()]
        return TrainingState(
            record,
            tuple(epochs),
            best_epoch,
            best_parameters,
            self.model.get_values(),
            {name: velocity.get_value() for name, velocity in self.learner.velocities.items()},
            np.array([state_words(generator) for generator in generators], np.uint64).reshape(-1, WORDS),
        )

    def resume(self, state: TrainingState) -> None:
        """Go on from there."""
        self.model.set_values(state.parameters)
        for name, velocity in self.learner.velocities.items():
            velocity.set_value(state.velocities[name])
        for variable, words in zip(self._random_variables(), state.random_states, strict=True):
            variable.set_value(generator_of(words))

    def begin_alike(self) -> None:
        """Give all processes the parameters and velocities of process 0."""
        if self.processes.count > 1:
            self.model.set_values(self.processes.from_first(self.model.get_values()))
            velocities = {name: velocity.get_value() for name, velocity in self.learner.velocities.items()}
            for name, value in self.processes.from_first(velocities).items():
                self.learner.velocities[name].set_value(value)

    def _random_variables(self) -> list[Any]:
        return random_variables([self.learner.step, self.judge.add])


@contextmanager
def failures_told(where: str | Callable[[], str]) -> Iterator[None]:
    """Turn an error of a compiled function, or of a device, into a `StepFailed` of one line, which says ``where``."""
    try:
        yield
    except (Diverged, StepFailed):
        raise
    except Exception as error:
        # PyTensor adds the graph around an error, in many lines; whoever wants them finds them in the cause.
        reason = next(iter(str(error).splitlines()), "")
        place = where if isinstance(where, str) else where()
        raise StepFailed(f"{place} failed: {type(error).__name__}: {reason}") from error
