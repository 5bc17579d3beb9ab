"""LeNet as the tutorials taught it, with the imports of before Theano 0.8."""
import os
import sys

import numpy
import theano
import theano.tensor as T
from theano.tensor.nnet import conv
from theano.tensor.signal import downsample

sys.path.append(os.path.split(os.path.abspath(__file__))[0])

import made_up_digits
from logistic_regression import LogisticRegression, shared_dataset
from multilayer_perceptron import HiddenLayer


class LeNetConvPoolLayer(object):
    def __init__(self, rng, input, filter_shape, image_shape, poolsize=(2, 2)):
        assert image_shape[1] == filter_shape[1]
        self.input = input
        fan_in = numpy.prod(filter_shape[1:])
        fan_out = (filter_shape[0] * numpy.prod(filter_shape[2:]) / numpy.prod(poolsize))
        W_bound = numpy.sqrt(6. / (fan_in + fan_out))
        self.W = theano.shared(
            numpy.asarray(
                rng.uniform(low=-W_bound, high=W_bound, size=filter_shape),
                dtype=theano.config.floatX
            ),
            borrow=True
        )
        b_values = numpy.zeros((filter_shape[0],), dtype=theano.config.floatX)
        self.b = theano.shared(value=b_values, borrow=True)
        conv_out = conv.conv2d(
            input=input,
            filters=self.W,
            filter_shape=filter_shape,
            image_shape=image_shape
        )
        pooled_out = downsample.max_pool_2d(
            input=conv_out,
            ds=poolsize,
            ignore_border=True
        )
        self.output = T.tanh(pooled_out + self.b.dimshuffle('x', 0, 'x', 'x'))
        self.params = [self.W, self.b]


def evaluate_lenet5(learning_rate=0.5, n_epochs=5, nkerns=[3, 4], batch_size=20):
    rng = numpy.random.RandomState(23455)
    train_set_x, train_set_y = shared_dataset(made_up_digits.load()[0])
    n_train_batches = train_set_x.get_value(borrow=True).shape[0]
    n_train_batches //= batch_size

    index = T.lscalar()
    x = T.matrix('x')
    y = T.ivector('y')
    ishape = (12, 12)
    layer0_input = x.reshape((batch_size, 1, 12, 12))
    layer0 = LeNetConvPoolLayer(
        rng,
        input=layer0_input,
        image_shape=(batch_size, 1, ishape[0], ishape[1]),
        filter_shape=(nkerns[0], 1, 3, 3),
        poolsize=(2, 2)
    )
    layer1 = LeNetConvPoolLayer(
        rng,
        input=layer0.output,
        image_shape=(batch_size, nkerns[0], 5, 5),
        filter_shape=(nkerns[1], nkerns[0], 2, 2),
        poolsize=(2, 2)
    )
    layer2_input = layer1.output.flatten(2)
    layer2 = HiddenLayer(rng, input=layer2_input, n_in=nkerns[1] * 2 * 2, n_out=10, activation=T.tanh)
    layer3 = LogisticRegression(input=layer2.output, n_in=10, n_out=4)
    cost = layer3.negative_log_likelihood(y)

    params = layer3.params + layer2.params + layer1.params + layer0.params
    grads = T.grad(cost, params)
    updates = []
    for param_i, grad_i in zip(params, grads):
        updates.append((param_i, param_i - learning_rate * grad_i))
    train_model = theano.function([index], cost, updates=updates, givens={
        x: train_set_x[index * batch_size: (index + 1) * batch_size],
        y: train_set_y[index * batch_size: (index + 1) * batch_size]})

    costs = []
    for epoch in range(n_epochs):
        for minibatch_index in range(n_train_batches):
            costs.append(float(train_model(minibatch_index)))
        print('epoch %i, cost %f' % (epoch + 1, costs[-1]))
    return params, costs


if __name__ == '__main__':
    params, costs = evaluate_lenet5()
