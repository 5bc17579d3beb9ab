"""Maxout convolution in c01b, the way pylearn2 wrote models: linear transforms with axes, norms censored after updates."""
import functools
from collections import OrderedDict

import numpy as np
import theano
from theano import config
from theano import tensor as T
from theano.sandbox import cuda
from theano.sandbox.cuda.basic_ops import gpu_contiguous, gpu_from_host, host_from_gpu

from pylearn2.sandbox.cuda_convnet import check_cuda
from pylearn2.sandbox.cuda_convnet.filter_acts import FilterActs, ImageActs
from pylearn2.sandbox.cuda_convnet.pool import max_pool_c01b
from pylearn2.sandbox.cuda_convnet.probabilistic_max_pooling import prob_max_pool_c01b
from pylearn2.sandbox.cuda_convnet.response_norm import CrossMapNorm
from pylearn2.sandbox.cuda_convnet.stochastic_pool import stochastic_max_pool_c01b, weighted_max_pool_c01b

assert cuda.cuda_available


def sharedX(value, name=None):
    return theano.shared(theano._asarray(value, dtype=config.floatX), name=name)


class Transform(object):
    def __init__(self, filters, pad=0, axes=('c', 0, 1, 'b')):
        check_cuda(type(self).__name__)
        self.filters, self.pad, self.axes = filters, pad, axes

    def lmul(self, x):
        on_host = 'Cuda' not in str(type(x))
        if on_host:
            x = gpu_from_host(x)
        c01b = ('c', 0, 1, 'b')
        if tuple(self.axes) != c01b:
            x = x.dimshuffle(*[self.axes.index(axis) for axis in c01b])
        out = FilterActs(self.pad, 1, 1)(gpu_contiguous(x), self.filters)
        return host_from_gpu(out) if on_host else out

    def lmul_T(self, y, rows, columns):
        return ImageActs(pad=self.pad, partial_sum=1, stride=1)(y, self.filters, output_shape=(rows, columns))


class Maxout(object):
    def __init__(self, space, channels, pieces, length, pad, pool, max_norm=None, axes=('c', 0, 1, 'b')):
        self.pieces, self.pool, self.max_norm = pieces, pool, max_norm
        rng = np.random.RandomState([2012, 11, 6, 9])
        self.W = sharedX(rng.uniform(-.1, .1, (space[0], length, length, channels * pieces)), 'W')
        self.b = sharedX(np.zeros(channels * pieces), 'b')
        self.transform = Transform(self.W, pad, axes)
        rows = space[1] + 2 * pad - length + 1
        dummy = max_pool_c01b(c01b=sharedX(np.zeros((channels, rows, rows, 2))), pool_shape=(3, 3), pool_stride=(2, 2))
        self.space = (channels,) + dummy.eval().shape[1:3]

    def fprop(self, x, pool=None):
        z = self.transform.lmul(x) + self.b.dimshuffle(0, 'x', 'x', 'x')
        best = None
        for piece in range(self.pieces):
            part = z[piece::self.pieces, :, :, :]
            best = part if best is None else T.maximum(best, part)
        return (pool or self.pool)(c01b=T.maximum(best, 0.), pool_shape=(3, 3), pool_stride=(2, 2))

    def censor_updates(self, updates):
        if self.max_norm is not None and self.W in updates:
            norms = T.sqrt(T.sum(T.sqr(updates[self.W]), axis=(0, 1, 2)))
            scales = T.clip(norms, 0, self.max_norm) / (1e-7 + norms)
            updates[self.W] = updates[self.W] * scales.dimshuffle('x', 'x', 'x', 0)


rng = np.random.RandomState(0)
first = Maxout((3, 10, 10), 6, 2, 5, 2, max_pool_c01b, max_norm=.9, axes=('b', 'c', 0, 1))
second = Maxout(first.space, 5, 2, 3, 1, functools.partial(stochastic_max_pool_c01b, seed=5))
weights = sharedX(rng.uniform(-.1, .1, (int(np.prod(second.space)), 4)))

X, Y = T.TensorType(config.floatX, (False,) * 4)('X_bc01'), T.lvector('Y')
state, _ = CrossMapNorm(size_f=3, add_scale=.0001, pow_scale=.75, blocked=True)(gpu_contiguous(first.fprop(X)))


def probabilities(state):
    flat = state.dimshuffle(3, 0, 1, 2).reshape((state.shape[3], state.shape[0] * state.shape[1] * state.shape[2]))
    return T.nnet.softmax(T.dot(flat, weights))


cost = -T.log(probabilities(second.fprop(state))[T.arange(Y.shape[0]), Y]).mean()
cost.name = 'nll'
params = [first.W, first.b, second.W, second.b, weights]
gradients = OrderedDict(zip(params, T.grad(cost, params, disconnected_inputs='ignore')))
updates = OrderedDict((p, p - .5 * gradients[p]) for p in params)
first.censor_updates(updates)
second.censor_updates(updates)
learn = theano.function([X, Y], cost, updates=updates, on_unused_input='ignore')
predict = theano.function([X], T.argmax(probabilities(second.fprop(state, weighted_max_pool_c01b)), axis=1))

labels = rng.randint(0, 4, 24)
images = (rng.rand(24, 3, 10, 10) * .2).astype(config.floatX)
for image, label in zip(images, labels):
    image[:, (label // 2) * 5:(label // 2) * 5 + 5, (label % 2) * 5:(label % 2) * 5 + 5] += 1
costs = [float(learn(images, labels)) for _ in range(40)]
predicted = predict(images)
norms = np.sqrt((first.W.get_value() ** 2).sum(axis=(0, 1, 2)))
units = theano.function([X], prob_max_pool_c01b(X.dimshuffle(1, 2, 3, 0), (2, 2), top_down=None))(images)
back = theano.function([X], first.transform.lmul_T(first.transform.lmul(X), 10, 10))(images)
print(costs[0], costs[-1], (predicted == labels).mean(), second.space)
