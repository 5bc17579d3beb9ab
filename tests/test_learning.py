"""The compiled functions of training: steps, their weights, and sums over minibatches."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.learning import Judge, Learner, evaluate, momentum_updates
from pytensor_convnet.minibatches import SharedImages
from tests.bars import QUICK, made_up_dataset, make_lenet, same_values


@pytest.fixture(scope="module")
def dataset():
    return made_up_dataset()


def test_steps_are_those_of_momentum_written_in_numpy():
    position = pytensor.shared(np.float32(3))
    rate, momentum = pt.fscalars("rate", "momentum")
    gradient = pytensor.grad(position**2, position)
    updates = momentum_updates({"x": position}, {"x": gradient}, rate, momentum)
    step = pytensor.function([rate, momentum], updates=updates, mode=QUICK, allow_input_downcast=True)
    x, velocity = 3.0, 0.0
    for _ in range(5):
        step(0.1, 0.9)
        velocity = 0.9 * velocity - 0.1 * 2 * x
        x += velocity
        assert position.get_value() == pytest.approx(x, rel=1e-5)


def test_an_image_weighs_the_same_in_the_smaller_last_minibatch(dataset):
    def step_of(images, number, batch_size):
        """How one step moves the biases of a network that would answer with its hidden units."""
        lenet = make_lenet(dataset)
        lenet.set_values(lenet.get_values() | {"softmax_weights": np.eye(500, 3, dtype="float32")})
        learner = Learner(lenet, SharedImages([(images, np.zeros(len(images)))]), batch_size, QUICK)
        learner.set_steps(0.1, 0)
        learner.step(number * batch_size, min((number + 1) * batch_size, len(images)))
        return lenet.get_values()["softmax_biases"]

    alone = step_of(dataset.train_images[[5, 6, 7]], 0, batch_size=4)
    at_the_end = step_of(dataset.train_images[[0, 1, 2, 3, 5, 6, 7]], 1, batch_size=4)
    in_a_full_one = step_of(dataset.train_images[[5, 6, 7]], 0, batch_size=3)
    assert abs(alone).max() > 0.01
    np.testing.assert_allclose(alone, in_a_full_one * 3 / 4, rtol=1e-5)
    first = step_of(dataset.train_images[[0, 1, 2, 3, 5, 6, 7]], 0, batch_size=4)
    assert not np.allclose(at_the_end, first)
    np.testing.assert_allclose(alone, at_the_end, rtol=1e-5)


def test_a_step_of_rate_zero_changes_nothing_but_the_sum_of_losses(dataset):
    lenet = make_lenet(dataset)
    before = lenet.get_values()
    learner = Learner(lenet, SharedImages([(dataset.train_images, dataset.train_labels)]), 8, QUICK)
    first = float(learner.step(0, 8))
    assert first == pytest.approx(8 * np.log(3), rel=1e-5)
    assert float(learner.step(0, 8)) == 2 * first
    learner.begin()
    assert float(learner.step(0, 8)) == first
    assert same_values(lenet.get_values(), before)


def test_scores_are_means_over_all_images_however_they_are_batched(dataset):
    lenet = make_lenet(dataset)
    lenet.set_values(lenet.get_values() | {"softmax_weights": np.eye(500, 3, dtype="float32")})
    judge = Judge(lenet, SharedImages([(dataset.train_images, dataset.train_labels)]), 7, QUICK)
    score = judge.score()
    assert judge.score() == score
    at_once = evaluate(lenet, dataset.train_images, dataset.train_labels, batch_size=40, mode=QUICK)
    assert score.accuracy == at_once.accuracy
    assert score.loss == pytest.approx(at_once.loss, rel=1e-5)


def test_a_program_written_for_theano_runs(dataset):
    """The tutorial by hand: shared data, givens, updates, and `grad` with known_grads for the softmax."""
    rng = np.random.default_rng(0)
    images, labels = pt.tensor4("images", dtype="float32"), pt.ivector("labels")
    all_images = pytensor.shared(dataset.train_images, borrow=True)
    all_labels = pytensor.shared(dataset.train_labels, borrow=True)
    filters = pytensor.shared(rng.uniform(-0.2, 0.2, (4, 1, 5, 5)).astype("float32"))
    weights = pytensor.shared(np.zeros((4 * 4 * 4, 3), "float32"))
    maps = conv2d(input=images, filters=filters, filter_shape=(4, 1, 5, 5), image_shape=(None, 1, 16, 16))
    pooled = max_pool_2d(input=maps, ds=(3, 3), ignore_border=True)
    scores = pt.dot(pt.tanh(pooled).flatten(2), weights)
    probabilities = pt.special.softmax(scores, axis=1)
    one_hot = pt.eq(labels[:, None], pt.arange(3)[None, :])
    score_gradients = (probabilities - one_hot) / np.float32(8)
    parameters = [filters, weights]
    gradients = pytensor.grad(None, parameters, known_grads={scores: score_gradients.astype("float32")})
    index = pt.lscalar()
    step = pytensor.function(
        [index],
        -pt.log(probabilities)[pt.arange(labels.shape[0]), labels].mean(),
        updates=[(p, p - np.float32(0.5) * g) for p, g in zip(parameters, gradients)],
        givens={
            images: all_images[index * 8 : (index + 1) * 8],
            labels: all_labels[index * 8 : (index + 1) * 8],
        },
        mode=QUICK,
    )
    losses = [np.mean([step(batch) for batch in range(5)]) for _ in range(5)]
    assert losses[-1] < 0.5 * losses[0]
