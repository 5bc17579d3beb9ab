"""Every implementation computes the same: ours always, the peers where they are installed."""

import numpy as np
import pytest

from pytensor_convnet.bench import suite
from pytensor_convnet.bench.nets import NetData
from pytensor_convnet.bench.peers import PEERS
from pytensor_convnet.bench.peers.ours import Ours
from tests.bench.made_up import MACHINE, TINY_CONV, TINY_MEAN, TINY_NET, TINY_POOL


def one(name):
    """The implementation of that name with all of Numba's threads, or a skipped test."""
    import numba

    if name == Ours.name:
        return Ours(numba.get_num_threads())
    if not PEERS[name].is_installed():
        pytest.skip(f"{name} is not installed")
    return PEERS[name](numba.get_num_threads())


def run(monkeypatch, suite_name, case, *implementations):
    monkeypatch.setitem(suite.SUITES[suite_name], case.name, case)
    return list(suite.run(suite_name, [case.name], implementations, MACHINE, seconds=0))


@pytest.mark.parametrize("name", [Ours.name, "torch", "jax"])
@pytest.mark.parametrize(("suite_name", "case"), [("conv", TINY_CONV), ("pool", TINY_POOL), ("pool", TINY_MEAN)])
def test_each_operation_in_each_layout_is_right(monkeypatch, name, suite_name, case):
    implementation = one(name)
    records = run(monkeypatch, suite_name, case, implementation)
    assert [(r.operation, r.layout) for r in records] == [
        (operation, layout) for operation in case.operations for layout in implementation.layouts
    ]
    for record in records:
        assert (record.suite, record.case, record.implementation) == (suite_name, case.name, name)
        assert record.relative_error < 1e-6
        assert record.floor_seconds > 0
        assert record.seconds > 0


@pytest.mark.parametrize("name", ["torch", "jax", "pytensor-ml"])
def test_peers_take_the_same_steps_as_we(name):
    data = NetData.of(TINY_NET)
    peer = one(name)
    our_step = one(Ours.name).net(TINY_NET, data, "bc01")["step"].run
    ours = [float(our_step()) for _ in range(3)]
    assert ours[2] < ours[1] < ours[0]
    for layout in peer.layouts:
        step = peer.net(TINY_NET, data, layout)["step"].run
        np.testing.assert_allclose([float(step()) for _ in range(3)], ours, rtol=1e-5)


def test_without_a_rewrite_ours_is_measured_twice(monkeypatch):
    import numba

    ours = Ours(numba.get_num_threads(), ["fusion", "inplace"])
    assert ours.layouts == ("bc01", "bc01 without fusion, inplace")
    records = run(monkeypatch, "pool", TINY_MEAN, ours)
    assert [r.layout for r in records] == [*ours.layouts] * 2


def test_a_result_of_another_shape_is_no_result():
    with pytest.raises(ValueError, match=r"a result of shape \(2, 3\) was expected, got \(3, 2\)"):
        suite.relative_error(np.ones((3, 2)), np.ones((2, 3)))
