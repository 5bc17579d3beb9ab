"""A multilayer perceptron with L1 and L2 penalties, in the style of the tutorials of 2012."""
from collections import OrderedDict

import made_up_digits
import numpy
import theano
import theano.tensor as T
from logistic_regression import LogisticRegression, shared_dataset


class HiddenLayer(object):
    def __init__(self, rng, input, n_in, n_out, W=None, b=None, activation=T.tanh):
        self.input = input
        if W is None:
            W_values = numpy.asarray(
                rng.uniform(
                    low=-numpy.sqrt(6. / (n_in + n_out)),
                    high=numpy.sqrt(6. / (n_in + n_out)),
                    size=(n_in, n_out)
                ),
                dtype=theano.config.floatX
            )
            if activation == theano.tensor.nnet.sigmoid:
                W_values *= 4
            W = theano.shared(value=W_values, name='W', borrow=True)
        if b is None:
            b_values = numpy.zeros((n_out,), dtype=theano.config.floatX)
            b = theano.shared(value=b_values, name='b', borrow=True)
        self.W = W
        self.b = b
        lin_output = T.dot(input, self.W) + self.b
        self.output = (
            lin_output if activation is None
            else activation(lin_output)
        )
        self.params = [self.W, self.b]


class MLP(object):
    def __init__(self, rng, input, n_in, n_hidden, n_out):
        self.hiddenLayer = HiddenLayer(rng=rng, input=input, n_in=n_in, n_out=n_hidden, activation=T.tanh)
        self.logRegressionLayer = LogisticRegression(input=self.hiddenLayer.output, n_in=n_hidden, n_out=n_out)
        self.L1 = (
            abs(self.hiddenLayer.W).sum()
            + abs(self.logRegressionLayer.W).sum()
        )
        self.L2_sqr = (
            (self.hiddenLayer.W ** 2).sum()
            + (self.logRegressionLayer.W ** 2).sum()
        )
        self.negative_log_likelihood = self.logRegressionLayer.negative_log_likelihood
        self.errors = self.logRegressionLayer.errors
        self.params = self.hiddenLayer.params + self.logRegressionLayer.params


def train(learning_rate=0.05, L1_reg=0.0001, L2_reg=0.0001, n_epochs=5, batch_size=20, n_hidden=15, momentum=0.5):
    train_set_x, train_set_y = shared_dataset(made_up_digits.load()[0])
    n_train_batches = int(train_set_x.get_value(borrow=True).shape[0] / batch_size)
    index = T.lscalar()
    x = T.matrix('x')
    y = T.ivector('y')
    rng = numpy.random.RandomState(1234)
    classifier = MLP(rng=rng, input=x, n_in=12 * 12, n_hidden=n_hidden, n_out=4)
    cost = classifier.negative_log_likelihood(y) + L1_reg * classifier.L1 + L2_reg * classifier.L2_sqr

    gparams = [T.grad(cost, param) for param in classifier.params]
    updates = OrderedDict()
    for param, gparam in zip(classifier.params, gparams):
        velocity = theano.shared(param.get_value() * 0., broadcastable=param.broadcastable)
        updates[velocity] = momentum * velocity - theano._asarray(learning_rate, dtype=theano.config.floatX) * gparam
        updates[param] = param + updates[velocity]

    train_model = theano.function(
        inputs=[index],
        outputs=[cost, classifier.errors(y)],
        updates=updates,
        givens={
            x: train_set_x[index * batch_size: (index + 1) * batch_size],
            y: train_set_y[index * batch_size: (index + 1) * batch_size]
        },
        name='train_model',
        profile=False,
        on_unused_input='warn',
    )
    history = []
    for epoch in range(n_epochs):
        results = [train_model(i) for i in range(n_train_batches)]
        history.append(numpy.mean(results, axis=0))
        print('epoch %i: cost %f, error %f' % (epoch, history[-1][0], history[-1][1]))
    return classifier, history


if __name__ == '__main__':
    classifier, history = train()
    weights = [param.get_value(borrow=True).copy() for param in classifier.params]
    classifier.hiddenLayer.b.set_value(numpy.zeros_like(weights[1]), borrow=True)
