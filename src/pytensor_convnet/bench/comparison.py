"""What records say about our implementation beside its peers: ratios of times, their means, and the worst of all."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.records import Record
from pytensor_convnet.bench.suite import DTYPE, SUITES, Case

OURS = "pytensor-convnet"
OUR_LAYOUT = "bc01"

FEW_CHANNELS_OR_STRIDED = ("lenet1", "cifar1", "stride2_5x5", "alex1", "odd")
"""The convolutions that this package is for, whose mean is told apart."""


@dataclass(frozen=True)
class Comparison:
    """All records of one operation of one case: ours as users have it, and the others, which may include variants
    of ours."""

    ours: Record
    others: tuple[Record, ...]

    @property
    def case(self) -> str:
        return self.ours.case

    @property
    def operation(self) -> str:
        return self.ours.operation

    def ratio(self, rival: "Rival") -> float | None:
        """How many times as long as ours the rival's best takes; None where it was not measured."""
        seconds = [record.seconds for record in self.others if rival.is_met_by(record)]
        return min(seconds) / self.ours.seconds if seconds else None


@dataclass(frozen=True)
class Rival:
    """What ours is compared with: an implementation in one layout, in its better layout, or the best of all peers."""

    implementation: str | None = None
    layout: str | None = None

    def is_met_by(self, record: Record) -> bool:
        if self.implementation is None:
            return record.implementation != OURS
        return record.implementation == self.implementation and self.layout in (None, record.layout)

    def __str__(self) -> str:
        if self.implementation is None:
            return "the best of all peers"
        name = "ours" if self.implementation == OURS else self.implementation
        return f"{name}, {self.layout or 'its better layout'}"


BEST_PEER = Rival()


@dataclass(frozen=True)
class Standing:
    """How ours stands beside a rival: ratios of times, above 1 where ours is faster.

    Attributes
    ----------
    rival : Rival
    mean : float
        The geometric mean over all operations.
    mean_of_group : float or None
        Over those of `FEW_CHANNELS_OR_STRIDED`, None if none was measured.
    worst : Comparison
    worst_ratio : float
    """

    rival: Rival
    mean: float
    mean_of_group: float | None
    worst: Comparison
    worst_ratio: float


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """Put the records of the same operation of the same case together; those that ours has no part in are left out."""
    result = []
    for _, group in groupby(records, lambda record: (record.case, record.operation)):
        of_group = list(group)
        ours = next((r for r in of_group if r.implementation == OURS and r.layout == OUR_LAYOUT), None)
        if ours is not None:
            result.append(Comparison(ours, tuple(r for r in of_group if r is not ours)))
    return result


def rivals(compared: Sequence[Comparison]) -> list[Rival]:
    """Everything that ours can be compared with, in the order in which it was measured."""
    layouts: dict[str, list[str]] = {}
    for comparison in compared:
        for record in comparison.others:
            known = layouts.setdefault(record.implementation, [])
            if record.layout not in known:
                known.append(record.layout)
    result = [BEST_PEER] if len(set(layouts) - {OURS}) > 1 else []
    for implementation, known in layouts.items():
        if implementation != OURS and len(known) > 1:
            result.append(Rival(implementation))
        result += [Rival(implementation, layout) for layout in known]
    return result


def standings(compared: Sequence[Comparison]) -> list[Standing]:
    """How ours stands beside each of its `rivals`."""
    result = []
    for rival in rivals(compared):
        ratios = [(comparison, ratio) for comparison in compared if (ratio := comparison.ratio(rival)) is not None]
        group = [ratio for comparison, ratio in ratios if comparison.case in FEW_CHANNELS_OR_STRIDED]
        worst, worst_ratio = min(ratios, key=lambda pair: pair[1])
        mean = statistics.geometric_mean([ratio for _, ratio in ratios])
        result.append(Standing(rival, mean, statistics.geometric_mean(group) if group else None, worst, worst_ratio))
    return result


def case_of(record: Record) -> Case:
    """The case that a record measured."""
    return SUITES[record.suite][record.case]


def achieved(record: Record) -> float:
    """Nominal floating-point operations a second of a convolution, bytes a second of a pool, steps a second of a net.

    Examples
    --------
    >>> record = Record("net", "lenet", "step", "cpu", "float32", "ieee", "torch", "bc01", 0.02, None, None, None)
    >>> achieved(record)
    50.0
    """
    case = case_of(record)
    if isinstance(case, ConvCase):
        return case.flops / record.seconds
    return (case.bytes(DTYPE.itemsize) if isinstance(case, PoolCase) else 1) / record.seconds


def share_of_error_bound(record: Record) -> float | None:
    """The relative error of a convolution as a share of what rounding explains, ``2e-6 * sqrt(K / 100)``.

    K is how many products an element of the result sums, `ConvCase.summed_terms`. None without an error.
    """
    case = case_of(record)
    if not isinstance(case, ConvCase) or record.relative_error is None:
        return None
    return record.relative_error / (2e-6 * (case.summed_terms(record.operation) / 100) ** 0.5)
