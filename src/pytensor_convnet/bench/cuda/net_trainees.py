"""Trainings under measurement: each in a process of its own, as its users run it, or all in this one."""

import multiprocessing
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Self

import numpy as np
import torch

from pytensor_convnet.bench.cuda.net import Implementation, Steps, Training
from pytensor_convnet.bench.cuda.net_torch import free_memory
from pytensor_convnet.interrupts import interrupts_ignored

SECONDS_TO_END = 10
"""What a process that has closed its end of the pipe is given to end."""

COMPARED_STEPS = [0, 1] * 5
"""The minibatches of the steps whose losses are compared. They come again, so what was learnt from them shows."""


@dataclass(frozen=True)
class Beginning:
    """How a training began.

    Attributes
    ----------
    losses : array
        Of the steps on `COMPARED_STEPS`, the first ones.
    first_seconds : float
        Until the first of them was known, all that was built before included.
    seconds : float
        Until the last was. By then all is compiled; some compile, or capture, at the second step or the third.
    """

    losses: np.ndarray
    first_seconds: float
    seconds: float


class TraineeFailed(Exception):
    """An implementation cannot do it; the message is one line that says why."""


class Trainee(ABC):
    """What one implementation trains in one layout, for a ``with`` statement. All methods may raise `TraineeFailed`."""

    def __init__(self, implementation: Implementation, training: Training, layout: str) -> None:
        self.implementation, self.training, self.layout = implementation, training, layout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()

    @abstractmethod
    def prepare(self) -> None:
        """Do what no clock runs for: import libraries, open the device, and make the data set in the host's memory."""

    @abstractmethod
    def begin(self) -> Beginning:
        """Build the training and do its first steps."""

    @abstractmethod
    def seconds(self, length: int) -> float:
        """Seconds of a step: the time on the clock of so many in a row, none of whose losses is read.

        Steps take one minibatch after the other, over and over.
        """

    @abstractmethod
    def end(self) -> None:
        """Free everything; may be called again."""


@contextmanager
def _failures_told() -> Iterator[None]:
    """Raise `TraineeFailed` for whatever is raised, but for an interrupt."""
    try:
        yield
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise TraineeFailed(f"{type(error).__name__}: {first_line}") from error


class TraineeHere(Trainee):
    """A training in this process."""

    def __init__(self, implementation: Implementation, training: Training, layout: str) -> None:
        super().__init__(implementation, training, layout)
        self._steps: Steps | None = None
        self._numbers = (number % training.minibatches for number in count())

    @_failures_told()
    def prepare(self):
        self.implementation.prepare(self.training.device)
        _ = self.training.data  # is made when it is first asked for

    @_failures_told()
    def begin(self):
        start = time.perf_counter()
        self._steps = steps = self.implementation.steps(self.training, self.layout)
        with steps.settings():
            known = [(float(steps.step(number)), time.perf_counter() - start) for number in COMPARED_STEPS]
        losses = np.array([loss for loss, _ in known])
        if self.training.device == "cuda":
            torch.cuda.empty_cache()  # cuDNN takes much to measure its algorithms, which other processes may need
        if not np.isfinite(losses).all():
            raise ArithmeticError(f"the losses of its first steps are {losses}")
        return Beginning(losses, known[0][1], known[-1][1])

    @_failures_told()
    def seconds(self, length):
        steps = self._steps
        assert steps is not None
        with steps.settings():
            steps.wait()
            start = time.perf_counter()
            for _ in range(length):
                steps.step(next(self._numbers))
            steps.wait()
            return (time.perf_counter() - start) / length

    def end(self):
        self._steps = None
        free_memory(self.training.device)


class TraineeApart(Trainee):
    """A training in a process of its own, which starts, and prepares, when the ``with`` statement begins.

    It writes nothing to the terminal; where it dies, the last line that it wrote is told.
    """

    def __enter__(self):
        self._output = NamedTemporaryFile()
        self._pipe, other_end = multiprocessing.Pipe()
        self._pipe.send(("prepare", ()))
        arguments = other_end, self._output.name, self.implementation, self.training, self.layout
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
        # A terminal's Ctrl-C reaches them all, but it is this process that ends the others.
        with other_end, interrupts_ignored():
            self._process.start()
        return self

    def prepare(self):
        self._answer()

    def begin(self):
        return self._asked("begin")

    def seconds(self, length):
        return self._asked("seconds", length)

    def end(self):
        if not self._pipe.closed:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._output.close()

    def _asked(self, method: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((method, arguments))
        except OSError:
            raise self._death() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if isinstance(answer, TraineeFailed):
            raise answer
        return answer

    def _death(self) -> TraineeFailed:
        self._process.join(SECONDS_TO_END)
        if self._process.is_alive():  # without its end of the pipe it is of no use
            self._process.kill()
            self._process.join()
        written = Path(self._output.name).read_text(errors="replace").split("\n")
        last_line = next((line.strip() for line in reversed(written) if line.strip()), "it wrote nothing")
        return TraineeFailed(f"its process ended with exit code {self._process.exitcode}: {last_line}")


def _serve(pipe: Connection, output: str, implementation: Implementation, training: Training, layout: str) -> None:
    """Call the methods of a trainee that the other end of the pipe asks for, until it is closed."""
    with open(output, "w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    trainee = TraineeHere(implementation, training, layout)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = getattr(trainee, method)(*arguments)
        except TraineeFailed as failure:
            answer = failure
        pipe.send(answer)
