"""`theano.tensor.nnet`: activations, costs, batch normalisation and neighbours against NumPy and SciPy."""

import numpy as np
import pytest
from scipy import special

from tests.compat.values import gradient_of, numbers, value_of

pytestmark = pytest.mark.usefixtures("old_imports")

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@pytest.fixture
def nnet(old_imports):
    import theano.tensor

    return theano.tensor.nnet


ACTIVATIONS = {
    "softmax": lambda x: special.softmax(x, axis=-1),
    "logsoftmax": lambda x: special.log_softmax(x, axis=-1),
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + abs(x)),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(nnet, name, dtype):
    x = 3 * numbers(4, 5, dtype=dtype)
    result = value_of(getattr(nnet, name)(x))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, ACTIVATIONS[name](x), rtol=1e-5, atol=1e-6)


def test_ultra_fast_sigmoid_is_its_pieces_and_near_the_logistic_function(nnet):
    x = np.linspace(-10, 10, 401)
    half = abs(x) / 2
    pieces = [1.5 * half / (1 + half), 0.935409070603099 + 0.0458812946797165 * (half - 1.7)]
    bent = np.select([half < 1.7, half < 3], pieces, 0.99505475368673)
    result = value_of(nnet.ultra_fast_sigmoid(x))
    np.testing.assert_allclose(result, 0.5 * (1 + np.sign(x) * bent), rtol=1e-12)
    np.testing.assert_allclose(result, special.expit(x), atol=0.03)
    assert value_of(nnet.ultra_fast_sigmoid(np.zeros(1))) == 0.5


def test_ultra_fast_sigmoid_has_a_gradient(nnet):
    x = np.array([-1.0, 0.0, 2.0])
    [gradient] = gradient_of(nnet.ultra_fast_sigmoid, x)
    assert (value_of(gradient)[:2] > 0).all()


@pytest.mark.parametrize("alpha", [0.1, [0.0, 0.5, 1.0]])
def test_a_leaky_rectifier_has_its_slope(nnet, alpha):
    x = numbers(4, 3)
    result = value_of(nnet.relu(x, alpha if isinstance(alpha, float) else np.array(alpha)))
    np.testing.assert_allclose(result, np.where(x > 0, x, np.asarray(alpha) * x), rtol=1e-12)


def test_the_rectifiers_gradient_at_zero_is_the_mean_of_both_slopes(nnet):
    [gradient] = gradient_of(nnet.relu, np.zeros(1))
    assert value_of(gradient) == 0.5


def test_softmax_of_a_vector_is_a_row(nnet):
    x = numbers(5)
    np.testing.assert_allclose(value_of(nnet.softmax(x)), special.softmax(x)[None], rtol=1e-12)


def test_softmax_of_a_number_is_refused(nnet):
    with pytest.raises(ValueError, match="softmax takes rows"):
        nnet.softmax(0.0)


def test_binary_crossentropies(nnet):
    x, target = numbers(3, 4), np.random.default_rng(1).uniform(size=(3, 4))
    p = special.expit(x)
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    np.testing.assert_allclose(value_of(nnet.binary_crossentropy(p, target)), expected, rtol=1e-12)
    np.testing.assert_allclose(value_of(nnet.sigmoid_binary_crossentropy(x, target)), expected, rtol=1e-12)


def test_sigmoid_binary_crossentropy_does_not_overflow(nnet):
    x, target = np.array([-1000.0, 1000.0]), np.array([1.0, 0.0])
    np.testing.assert_array_equal(value_of(nnet.sigmoid_binary_crossentropy(x, target)), [1000, 1000])


def test_categorical_crossentropy_of_classes_and_of_distributions(nnet):
    p = special.softmax(numbers(3, 4), axis=1)
    classes = np.array([1, 3, 0])
    expected = -np.log(p)[np.arange(3), classes]
    np.testing.assert_allclose(value_of(nnet.categorical_crossentropy(p, classes)), expected, rtol=1e-12)
    np.testing.assert_allclose(value_of(nnet.categorical_crossentropy(p, np.eye(4)[classes])), expected, rtol=1e-12)
    volumes = nnet.categorical_crossentropy(np.stack([p, p[::-1]]), np.stack([classes, classes[::-1]]))
    np.testing.assert_allclose(value_of(volumes), [expected, expected[::-1]], rtol=1e-12)
    with pytest.raises(ValueError, match="true_dist must have as many axes"):
        nnet.categorical_crossentropy(p, 1)


def test_costs_that_give_the_softmax_too(nnet):
    x, b, classes = numbers(3, 4), numbers(4, seed=1), np.array([1, 3, 0])
    p = special.softmax(x + b, axis=1)
    cost, probabilities, most, best = value_of(*nnet.crossentropy_softmax_max_and_argmax_1hot_with_bias(x, b, classes))
    np.testing.assert_allclose(cost, -np.log(p)[np.arange(3), classes], rtol=1e-12)
    np.testing.assert_allclose(probabilities, p, rtol=1e-12)
    np.testing.assert_allclose(most, p.max(1), rtol=1e-12)
    np.testing.assert_array_equal(best, p.argmax(1))
    for same in (nnet.softmax_with_bias(x, b), nnet.crossentropy_softmax_1hot(x + b, classes)[1]):
        np.testing.assert_allclose(value_of(same), p, rtol=1e-12)


def test_a_confusion_matrix_counts(nnet):
    matrix, classes = value_of(*nnet.confusion_matrix(np.array([0, 2, 2, 5]), np.array([0, 2, 0, 0])))
    assert classes.tolist() == [0, 2, 5]
    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_columns_are_prepended(nnet):
    x = numbers(2, 3)
    np.testing.assert_array_equal(value_of(nnet.prepend_1_to_each_row(x)), np.hstack([np.ones((2, 1)), x]))
    np.testing.assert_array_equal(value_of(nnet.prepend_0_to_each_row(x))[:, 0], [0, 0])


# --------------------------------------------------------------------------------------------- batch normalisation

NORMALISED = [
    ("per-activation", (5, 3), (0,), (3,)),
    ("per-activation", (5, 3, 4, 2), (0,), (3, 4, 2)),
    ("spatial", (5, 3, 4, 2), (0, 2, 3), (3,)),
    ((0, 2), (5, 3, 4), (0, 2), (3,)),
]


@pytest.mark.parametrize("compact", [True, False], ids=["compact", "all-axes"])
@pytest.mark.parametrize(("axes", "shape", "over", "kept"), NORMALISED)
def test_batch_normalisation(nnet, axes, shape, over, kept, compact):
    x = 2 + numbers(*shape)
    full = [1 if axis in over else length for axis, length in enumerate(shape)]
    gamma, beta, old_mean, old_variance = (
        1 + 0.1 * numbers(*(kept if compact else full), seed=seed) for seed in range(1, 5)
    )
    out, mean, invstd, new_mean, new_variance = value_of(
        *nnet.batch_normalization_train(x, gamma, beta, axes, 1e-3, 0.2, old_mean, old_variance)
    )
    count = x.size // np.prod(full)
    expected_mean, variance = x.mean(over, keepdims=True), x.var(over, keepdims=True)
    normalised = (x - expected_mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(out, normalised * gamma.reshape(full) + beta.reshape(full), rtol=1e-10)
    np.testing.assert_allclose(mean, expected_mean.reshape(gamma.shape), rtol=1e-12)
    np.testing.assert_allclose(invstd, (1 / np.sqrt(variance + 1e-3)).reshape(gamma.shape), rtol=1e-12)
    np.testing.assert_allclose(new_mean, 0.8 * old_mean + 0.2 * mean, rtol=1e-12)
    unbiased = variance.reshape(gamma.shape) * count / (count - 1)
    np.testing.assert_allclose(new_variance, 0.8 * old_variance + 0.2 * unbiased, rtol=1e-12)

    given = nnet.batch_normalization_test(x, gamma, beta, old_mean, old_variance, axes, 1e-3)
    normalised = (x - old_mean.reshape(full)) / np.sqrt(old_variance.reshape(full) + 1e-3)
    np.testing.assert_allclose(value_of(given), normalised * gamma.reshape(full) + beta.reshape(full), rtol=1e-10)


@pytest.mark.parametrize("mode", ["low_mem", "high_mem"])
def test_batch_normalisation_by_given_statistics(nnet, mode):
    x, gamma, beta, mean, std = (1 + 0.1 * numbers(4, 3, seed=seed) for seed in range(5))
    result = value_of(nnet.batch_normalization(x, gamma, beta, mean, std, mode))
    np.testing.assert_allclose(result, (x - mean) * gamma / std + beta, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"axes": "everywhere"}, "axes must be 'per-activation'"),
        ({"axes": (0, 4)}, "axes must be some of 0 to 3"),
        ({"epsilon": 1e-6}, "epsilon must be at least 1e-5"),
        ({"gamma": np.ones((2, 2))}, "parameters must have 4 axes, as inputs, or 3, without axes"),
        ({"running_mean": np.ones(3)}, "give both or neither"),
    ],
)
def test_wrong_arguments_of_batch_normalisation_are_refused(nnet, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        nnet.batch_normalization_train(
            **{"inputs": numbers(2, 3, 4, 4), "gamma": np.ones((3, 4, 4)), "beta": np.ones((3, 4, 4))} | arguments
        )


# --------------------------------------------------------------------------------------------- neighbours


def windows(images, size, step):
    """Rows of pixels, window by window, in loops."""
    rows = []
    for image in images.reshape(-1, *images.shape[2:]):
        for y in range(0, image.shape[0] - size[0] + 1, step[0]):
            for x in range(0, image.shape[1] - size[1] + 1, step[1]):
                rows.append(image[y : y + size[0], x : x + size[1]].ravel())
    return np.array(rows)


@pytest.mark.parametrize(
    ("shape", "size", "step", "mode"),
    [
        ((2, 3, 4, 6), (2, 3), None, "valid"),
        ((1, 2, 5, 5), (3, 2), (1, 1), "valid"),
        ((1, 2, 5, 7), (2, 3), (2, 2), "ignore_borders"),
        ((1, 1, 6, 5), (3, 3), (1, 2), "half"),
        ((1, 1, 4, 4), (2, 3), (1, 1), "full"),
    ],
)
def test_windows_become_rows(nnet, shape, size, step, mode):
    images = numbers(*shape)
    margins = {"half": [length // 2 for length in size], "full": [length - 1 for length in size]}.get(mode, [0, 0])
    padded = np.pad(images, ((0, 0), (0, 0), *((margin, margin) for margin in margins)))
    rows = value_of(nnet.neighbours.images2neibs(images, size, step, mode))
    np.testing.assert_array_equal(rows, windows(padded, size, step or size))


def test_centred_windows_wrap_around(nnet):
    images = numbers(1, 1, 5, 4)
    rows = value_of(nnet.neighbours.images2neibs(images, (3, 3), (2, 1), "wrap_centered"))
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")
    np.testing.assert_array_equal(rows, windows(padded, (3, 3), (2, 1)))


def test_windows_that_do_not_exhaust_the_image_are_refused(nnet):
    with pytest.raises(AssertionError, match="windows must exhaust the image"):
        value_of(nnet.neighbours.images2neibs(numbers(1, 1, 5, 4), (2, 2)))
    with pytest.raises(ValueError, match="mode must be one of valid"):
        nnet.neighbours.images2neibs(numbers(1, 1, 4, 4), (2, 2), mode="same")


@pytest.mark.parametrize(("mode", "rows"), [("valid", 4), ("ignore_borders", 5)])
def test_rows_become_images_again(nnet, mode, rows):
    images = numbers(2, 1, rows, 6)
    neibs = nnet.neighbours.images2neibs(images, (2, 3), mode=mode)
    again = value_of(nnet.neighbours.neibs2images(neibs, (2, 3), images.shape, mode))
    np.testing.assert_array_equal(again[:, :, :4], images[:, :, :4])
    assert (again[:, :, 4:] == 0).all()
    assert again.shape == images.shape


def test_the_gradient_of_windows_counts_how_often_a_pixel_is_read(nnet):
    import theano

    images = theano.tensor.constant(numbers(1, 1, 3, 3))
    total = nnet.neighbours.images2neibs(images, (2, 2), (1, 1)).sum()
    counts = value_of(theano.grad(total, images))
    assert counts[0, 0].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
