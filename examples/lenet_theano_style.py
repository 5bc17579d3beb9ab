"""LeNet on handwritten digits, written as Theano programs were in 2015; only the imports of theano have changed.

    python examples/lenet_theano_style.py                    learns scikit-learn's digits, and draws what it learnt
    python examples/lenet_theano_style.py --small            the same on a few images, to see that it runs

The data set lies in shared variables; compiled functions take the index of a minibatch and cut it out by ``givens``.
Training stops when validation errors have not become much better for a while.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy
from rich.progress import track

import pytensor_convnet.compat.theano as theano
import pytensor_convnet.compat.theano.tensor as T
from pytensor_convnet import datasets, plots
from pytensor_convnet.compat.theano.tensor.nnet import conv
from pytensor_convnet.compat.theano.tensor.signal import downsample

theano.config.floatX = "float32"


class LeNetConvPoolLayer:
    """A convolution, max pooling, a bias for each map, and tanh."""

    def __init__(self, rng, input, filter_shape, image_shape, poolsize=(2, 2)):
        assert image_shape[1] == filter_shape[1], "filters see all channels"
        fan_in = numpy.prod(filter_shape[1:])
        fan_out = filter_shape[0] * numpy.prod(filter_shape[2:]) // numpy.prod(poolsize)
        bound = numpy.sqrt(6.0 / (fan_in + fan_out))
        filters = rng.uniform(low=-bound, high=bound, size=filter_shape)
        self.W = theano.shared(numpy.asarray(filters, dtype=theano.config.floatX), name="W", borrow=True)
        self.b = theano.shared(numpy.zeros(filter_shape[0], dtype=theano.config.floatX), name="b", borrow=True)
        maps = conv.conv2d(input=input, filters=self.W, filter_shape=filter_shape, image_shape=image_shape)
        pooled = downsample.max_pool_2d(input=maps, ds=poolsize, ignore_border=True)
        self.output = T.tanh(pooled + self.b.dimshuffle("x", 0, "x", "x"))
        self.params = [self.W, self.b]


class HiddenLayer:
    """Fully connected tanh units."""

    def __init__(self, rng, input, n_in, n_out):
        bound = numpy.sqrt(6.0 / (n_in + n_out))
        weights = rng.uniform(low=-bound, high=bound, size=(n_in, n_out))
        self.W = theano.shared(numpy.asarray(weights, dtype=theano.config.floatX), name="W", borrow=True)
        self.b = theano.shared(numpy.zeros(n_out, dtype=theano.config.floatX), name="b", borrow=True)
        self.output = T.tanh(T.dot(input, self.W) + self.b)
        self.params = [self.W, self.b]


class LogisticRegression:
    """A softmax over classes, its cost and its errors."""

    def __init__(self, input, n_in, n_out):
        self.W = theano.shared(numpy.zeros((n_in, n_out), dtype=theano.config.floatX), name="W", borrow=True)
        self.b = theano.shared(numpy.zeros(n_out, dtype=theano.config.floatX), name="b", borrow=True)
        self.p_y_given_x = T.nnet.softmax(T.dot(input, self.W) + self.b)
        self.y_pred = T.argmax(self.p_y_given_x, axis=1)
        self.params = [self.W, self.b]

    def negative_log_likelihood(self, y):
        return -T.mean(T.log(self.p_y_given_x)[T.arange(y.shape[0]), y])

    def errors(self, y):
        return T.mean(T.neq(self.y_pred, y))


def shared_dataset(images, labels):
    """Images as rows and labels, both in shared variables; the labels are stored as floats and cast in the graph."""
    rows = images.reshape(len(images), -1)
    shared_x = theano.shared(numpy.asarray(rows, dtype=theano.config.floatX), borrow=True)
    shared_y = theano.shared(numpy.asarray(labels, dtype=theano.config.floatX), borrow=True)
    return shared_x, T.cast(shared_y, "int32")


def build(rng, x, batch_size, nkerns):
    """The layers of the network, first to last, on images of 28 x 28 pixels that ``x`` holds as rows."""
    layer0 = LeNetConvPoolLayer(
        rng,
        input=x.reshape((batch_size, 1, 28, 28)),
        image_shape=(batch_size, 1, 28, 28),
        filter_shape=(nkerns[0], 1, 5, 5),
    )
    layer1 = LeNetConvPoolLayer(
        rng,
        input=layer0.output,
        image_shape=(batch_size, nkerns[0], 12, 12),
        filter_shape=(nkerns[1], nkerns[0], 5, 5),
    )
    layer2 = HiddenLayer(rng, input=layer1.output.flatten(2), n_in=nkerns[1] * 4 * 4, n_out=500)
    layer3 = LogisticRegression(input=layer2.output, n_in=500, n_out=10)
    return [layer0, layer1, layer2, layer3]


def evaluate_lenet5(digits, learning_rate=0.1, n_epochs=20, nkerns=(20, 50), batch_size=100, seed=23455):
    """Train and test; returns the layers, the validation error after each epoch, and the test error.

    ``digits`` are three pairs of images and labels, for training, validation and test.
    """
    rng = numpy.random.RandomState(seed)
    data = [shared_dataset(*part) for part in digits]
    batches = [x.get_value(borrow=True).shape[0] // batch_size for x, _ in data]

    index = T.lscalar("index")
    x, y = T.matrix("x"), T.ivector("y")
    layers = build(rng, x, batch_size, nkerns)
    cost, errors = layers[-1].negative_log_likelihood(y), layers[-1].errors(y)

    def minibatch(part):
        set_x, set_y = data[part]
        cut = slice(index * batch_size, (index + 1) * batch_size)
        return {x: set_x[cut], y: set_y[cut]}

    params = [param for layer in reversed(layers) for param in layer.params]
    grads = T.grad(cost, params)
    updates = [(param, param - learning_rate * grad) for param, grad in zip(params, grads)]
    started = time.perf_counter()
    train_model = theano.function([index], cost, updates=updates, givens=minibatch(0))
    validate_model = theano.function([index], errors, givens=minibatch(1))
    test_model = theano.function([index], errors, givens=minibatch(2))
    print(f"compiled in {time.perf_counter() - started:.1f} s")

    patience, patience_increase, improvement_threshold = 4 * batches[0], 2, 0.995
    best_error, test_error, history, seen = numpy.inf, 1.0, [], 0
    for epoch in range(1, n_epochs + 1):
        costs = []
        for minibatch_index in track(
            range(batches[0]), f"epoch {epoch}", transient=True, disable=not sys.stdout.isatty()
        ):
            costs.append(train_model(minibatch_index))
        seen += batches[0]
        error = float(numpy.mean([validate_model(i) for i in range(batches[1])]))
        history.append(error)
        print(f"epoch {epoch}: cost {numpy.mean(costs):.4f}, validation error {100 * error:.2f}%")
        if error < best_error:
            if error < best_error * improvement_threshold:
                patience = max(patience, seen * patience_increase)
            best_error = error
            test_error = float(numpy.mean([test_model(i) for i in range(batches[2])]))
        if seen >= patience:
            break
    print(f"best validation error {100 * best_error:.2f}%, test error then {100 * test_error:.2f}%")
    return layers, history, test_error


def load_digits(small):
    """scikit-learn's handwritten digits, 28 x 28; ``small`` takes a few."""
    digits = datasets.load("digits")
    held_out = len(digits.train_images) - (100 if small else 300)
    parts = [
        (digits.train_images[:held_out], digits.train_labels[:held_out]),
        (digits.train_images[held_out:], digits.train_labels[held_out:]),
        (digits.test_images, digits.test_labels),
    ]
    return [(images[:100], labels[:100]) for images, labels in parts] if small else parts


def draw(layers, history, folder):
    """Pictures of the first filters and of the way there."""
    folder.mkdir(parents=True, exist_ok=True)
    plots.save(plots.filters_figure(layers[0].W.get_value()), folder / "lenet-filters.png")
    figure = plots.new_figure(5, 3.5)
    axes = figure.add_subplot(title="LeNet on digits", xlabel="epoch", ylabel="validation error")
    axes.plot(range(1, len(history) + 1), history, marker="o")
    axes.set_ylim(0, 1.1 * max(history) or 1)
    axes.set_xticks(range(1, len(history) + 1, 1 + len(history) // 10))
    plots.save(figure, folder / "lenet-errors.png")
    print(f"pictures are in {folder}")


def main(arguments=None):
    """Read the command line, train, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few images, few filters, two epochs")
    parser.add_argument("--epochs", type=int, default=20, help="at most so many epochs")
    parser.add_argument("--plots", type=Path, default=Path("demo"), help="the folder for pictures")
    options = parser.parse_args(arguments)
    settings = {"n_epochs": 2, "nkerns": (3, 4), "batch_size": 20} if options.small else {"n_epochs": options.epochs}
    layers, history, test_error = evaluate_lenet5(load_digits(options.small), **settings)
    draw(layers, history, options.plots)
    return history, test_error


if __name__ == "__main__":
    main()
