"""Minibatches: the same ones, from images that lie whole and from streamed ones."""

import threading

import numpy as np
import pytensor
import pytest

from pytensor_convnet.minibatches import SharedImages, StreamedImages, epoch_order
from tests.bars import QUICK


@pytest.fixture(params=[SharedImages, StreamedImages])
def data(request):
    """Images that are full of a number, labelled with it: one part from 0, another from 100."""

    def part(positions):
        images = np.broadcast_to(positions[:, None, None, None], (len(positions), 1, 2, 2))
        return images.astype("float32"), positions

    return request.param([part(np.arange(40)), part(np.arange(100, 103))])


def labels_of(data, batch_size, numbers=None):
    """The labels of each minibatch, once its images are known to be theirs."""
    inputs, images, labels = data.symbolic_minibatch()
    function = pytensor.function(inputs, [images, labels], mode=QUICK)
    found = []
    for minibatch in data.minibatches(batch_size, numbers):
        some_images, some_labels = function(*minibatch)
        assert (some_images == some_labels[:, None, None, None]).all()
        found.append(some_labels.tolist())
    return found


def test_every_image_of_the_order_comes_once(data):
    order = np.random.default_rng(0).permutation(40)[:37]
    data.set_order(order)
    batches = labels_of(data, 8)
    assert data.number_of_batches(8) == 5
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 5]
    assert [label for batch in batches for label in batch] == order.tolist()


def test_chosen_minibatches_come_alone(data):
    assert labels_of(data, 16, [0, 2]) == [list(range(16)), list(range(32, 40))]


def test_another_order_of_the_same_images_leaves_the_first(data):
    other = data.with_order(np.array([5, 3]))
    assert labels_of(other, 2) == [[5, 3]]
    assert labels_of(data, 40) == [list(range(40))]


def test_an_order_may_be_of_another_part(data):
    data.set_order(np.array([2, 0, 1]), part=1)
    assert labels_of(data, 2) == [[102, 100], [101]]
    data.set_order(np.array([7]))
    assert labels_of(data, 2) == [[7]]


def test_a_stream_that_is_left_ends_its_thread():
    data = StreamedImages([(np.zeros((40, 1, 2, 2), "float32"), np.arange(40))])
    minibatches = data.minibatches(4)
    next(minibatches)
    assert "prefetching" in [thread.name for thread in threading.enumerate()]
    minibatches.close()
    assert "prefetching" not in [thread.name for thread in threading.enumerate()]


def test_orders_follow_from_seed_and_epoch():
    positions = np.arange(100, 150)
    orders = {tuple(epoch_order(positions, seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}
    assert len(orders) == 4
    assert all(sorted(order) == positions.tolist() for order in orders)
    np.testing.assert_array_equal(epoch_order(positions, 1, 2), epoch_order(positions, 1, 2))
