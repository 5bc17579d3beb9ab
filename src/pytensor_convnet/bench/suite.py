"""Running a suite: for each case all implementations, interleaved, on the same data; a record for each figure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from pytensor_convnet.bench import ceilings, measure
from pytensor_convnet.bench.cases import CONV, POOL, ConvCase, PoolCase
from pytensor_convnet.bench.nets import NET, NetCase, NetData
from pytensor_convnet.bench.peers.base import ConvData, Operation, Peer, PoolData
from pytensor_convnet.bench.records import Machine, Record

Case: TypeAlias = ConvCase | PoolCase | NetCase

SUITES: dict[str, Mapping[str, Case]] = {
    "conv": {name: case.for_cpu() for name, case in CONV.items()},
    "pool": POOL,
    "net": NET,
}
"""The cases of each suite as a CPU runs them."""

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
    build = _builder(case)
    operations = {(peer.name, layout): build(peer, layout) for peer in peers for layout in peer.layouts}
    exact = _exact(case)
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


def _builder(case: Case) -> Callable[[Peer, str], Mapping[str, Operation]]:
    """The function that lets a peer make its operations of a case, all from the same data."""
    if isinstance(case, ConvCase):
        conv_data = ConvData.of(case)
        return lambda peer, layout: peer.conv(case, conv_data, layout)
    if isinstance(case, PoolCase):
        pool_data = PoolData.of(case)
        return lambda peer, layout: peer.pool(case, pool_data, layout)
    net_data = NetData.of(case)
    return lambda peer, layout: peer.net(case, net_data, layout)


def _exact(case: Case) -> Mapping[str, Operation]:
    """The operations of a convolution or pool on the same data in float64, by our own kernels."""
    import numba

    from pytensor_convnet.bench.peers import ours

    exact = ours.Ours(numba.get_num_threads())
    if isinstance(case, ConvCase):
        data = ConvData.of(case)
        doubled = ConvData(*(array.astype(np.float64) for array in (data.images, data.filters, data.maps)))
        return exact.conv(case, doubled, ours.LAYOUT)
    if isinstance(case, PoolCase):
        pool_data = PoolData.of(case)
        return exact.pool(
            case, PoolData(pool_data.images.astype(np.float64), pool_data.maps.astype(np.float64)), ours.LAYOUT
        )
    return {}


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
