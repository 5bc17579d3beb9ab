"""What training reports: scores, minibatches, epochs, and the history of all epochs."""

from dataclasses import dataclass, field


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
    """What is known after a minibatch; about ten times a second, and after the last one of each epoch.

    Attributes
    ----------
    epoch, batch : int
        Which it was, counted from 1.
    epochs, batches : int
        How many there are: epochs altogether, minibatches in each.
    loss : float
        The mean over the epoch so far, each minibatch judged before the network learnt from it.
    seconds : float
        Since the epoch began, until the minibatch was computed.
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
    validation : Score or None
        On the images held out from training; None if there are none.
    seconds : float
        From its beginning until its last minibatch was computed; validation not counted.
    images_per_second : float
    """

    epoch: int
    loss: float
    validation: Score | None
    seconds: float
    images_per_second: float


@dataclass
class History:
    """How a training went.

    Attributes
    ----------
    epochs : list of EpochReport
        One for each epoch that was finished, those before a resumption included.
    best_epoch : int or None
        Whose parameters were kept; None if no epoch was finished.
    interrupted : bool
        Whether the user stopped it (`KeyboardInterrupt`).
    compile_seconds : float
        From graphs to machine code.
    train, validation, test : Score
        Of the parameters kept: on the images learnt from, on those held out to choose the parameters (None if there
        are none), and on those that neither learning nor choosing saw. Only the last says how good the network is.
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
