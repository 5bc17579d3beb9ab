"""Which share of the work is whose."""

import numpy as np
import pytest

from pytensor_convnet.processes import ALONE, Processes


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("images", [0, 1, 11, 12, 23, 24, 31])
def test_shares_make_up_each_minibatch_in_its_order(count, images):
    batch_size = 12
    order = np.random.default_rng(0).permutation(images)
    processes = [Processes(rank, count) for rank in range(count)]
    share = batch_size // count
    shares = [each.share(order, batch_size) for each in processes]
    for batch in range(-(-images // batch_size)):
        cuts = [mine[batch * share : (batch + 1) * share] for mine in shares]
        np.testing.assert_array_equal(np.concatenate(cuts), order[batch * batch_size : (batch + 1) * batch_size])
        assert np.ptp([len(cut) for cut in cuts]) <= 1


def test_alone_everything_is_ones_own():
    order = np.arange(7)
    np.testing.assert_array_equal(ALONE.share(order, 3), order)
    np.testing.assert_array_equal(ALONE.part(order), order)
    np.testing.assert_array_equal(ALONE.total([1, 2]), [1, 2])
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.is_first
