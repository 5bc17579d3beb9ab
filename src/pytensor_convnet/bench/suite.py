"""Running a suite: for each case all implementations, interleaved, on the same data; a record for each figure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from pytensor_convnet.bench import ceilings, measure
from pytensor_convnet.bench.cases import CONV, CONV_PRECISIONS, POOL, ConvCase, PoolCase
from pytensor_convnet.bench.nets import GPU_NET, NET, NET_PRECISIONS, NetCase, NetData
from pytensor_convnet.bench.peers.base import ConvData, Operation, Peer, PoolData
from pytensor_convnet.bench.records import Machine, Record

Case: TypeAlias = ConvCase | PoolCase | NetCase

SUITES: dict[str, Mapping[str, Case]] = {
    "conv": {name: case.for_cpu() for name, case in CONV.items()},
    "pool": POOL,
    "net": NET,
}
"""The cases of each suite as a CPU runs them."""

GPU_SUITES: dict[str, Mapping[str, Case]] = {"conv": CONV, "pool": POOL, "net": GPU_NET}
"""The cases of each suite as a GPU runs them."""

GPU_PRECISIONS = {"conv": tuple(CONV_PRECISIONS), "net": tuple(NET_PRECISIONS)}
"""The precisions in which it runs them, where there is a choice."""

DTYPE = np.dtype("float32")


def run(
    suite: str,
    names: Iterable[str],
    peers: Sequence[Peer],
    machine: Machine,
    seconds: float = 1.0,
    on_step: Callable[[str], object] = lambda step: None,
) -> Iterator[Record]:
    """Measure cases of a suite.

    Parameters
    ----------
    suite : {'conv', 'pool', 'net'}
    names : names of cases
    peers : sequence of Peer
        They take turns; our own implementation is one of them.
    machine : Machine
        Its ceilings make the floors.
    seconds : float
        About how long to spend on each figure.
    on_step : callable, optional
        Called with a description before each operation of each case.

    Yields
    ------
    Record
        As soon as it is known.
    """
    for name in names:
        case = SUITES[suite][name]
        on_step(f"{name}: preparing")
        yield from _run_case(suite, case, peers, machine, seconds, on_step)


def _run_case(
    suite: str,
    case: Case,
    peers: Sequence[Peer],
    machine: Machine,
    seconds: float,
    on_step: Callable[[str], object],
) -> Iterator[Record]:
    data = _data(case)
    operations = {
        (peer.name, layout): _operations(peer, layout, case, data) for peer in peers for layout in peer.layouts
    }
    exact = _exact(case, data)
    floor = _floor(case, machine)
    for operation in case.operations:
        on_step(f"{case.name}: {operation}")
        chosen = {key: by_name[operation] for key, by_name in operations.items()}
        medians = measure.interleaved_medians({key: call.run for key, call in chosen.items()}, seconds)
        reference = exact[operation].run() if operation in exact else None
        for (implementation, layout), call in chosen.items():
            yield Record(
                suite=suite,
                case=case.name,
                operation=operation,
                device="cpu",
                dtype=DTYPE.name,
                precision="ieee",
                implementation=implementation,
                layout=layout,
                seconds=medians[implementation, layout],
                floor_seconds=floor,
                relative_error=None if reference is None else relative_error(call.to_numpy(call.run()), reference),
                extra_bytes=measure.extra_bytes(call.run),
            )


def _data(case: Case) -> Any:
    """Random data for a case, from which every implementation makes its own."""
    if isinstance(case, ConvCase):
        return ConvData.of(case)
    return PoolData.of(case) if isinstance(case, PoolCase) else NetData.of(case)


def _operations(peer: Peer, layout: str, case: Case, data: Any) -> Mapping[str, Operation]:
    """What an implementation can do of a case."""
    if isinstance(case, ConvCase):
        return peer.conv(case, data, layout)
    return peer.pool(case, data, layout) if isinstance(case, PoolCase) else peer.net(case, data, layout)


def _exact(case: Case, data: Any) -> Mapping[str, Operation]:
    """The operations of a convolution or pool on the same data in float64, by our own kernels."""
    import numba

    from pytensor_convnet.bench.peers import ours

    if isinstance(case, NetCase):
        return {}
    return _operations(ours.Ours(numba.get_num_threads()), ours.LAYOUT, case, data.as_float64())


def _floor(case: Case, machine: Machine) -> float | None:
    """Seconds below which no direct algorithm comes: that of operations or that of bytes, whichever is more."""
    if isinstance(case, NetCase):
        return None
    nbytes = case.bytes(DTYPE.itemsize)
    to_move = nbytes / ceilings.copy_rate(nbytes)
    to_compute = case.flops / machine.float32_flops_per_second if isinstance(case, ConvCase) else 0.0
    return max(to_move, to_compute)


def relative_error(result: np.ndarray, exact: np.ndarray) -> float:
    """``||result - exact|| / ||exact||``, without a second array of their size.

    Examples
    --------
    >>> relative_error(np.array([[3.0, 4.5]]), np.array([[3.0, 4.0]]))
    0.1
    """
    if result.shape != exact.shape:
        raise ValueError(f"a result of shape {exact.shape} was expected, got {result.shape}")
    error, size = (
        sum(float(np.sum(np.square(part(i), dtype=np.float64))) for i in range(len(exact)))
        for part in (lambda i: result[i] - exact[i], lambda i: exact[i])
    )
    return float(np.sqrt(error / size))
