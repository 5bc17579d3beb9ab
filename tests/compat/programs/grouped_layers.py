"""Layers of 2014's image classifiers: two groups side by side, normalisation as an expression, CIFAR-10's own pickles."""
import pickle
import sys

import numpy as np
import theano
import theano.tensor as T
from theano.sandbox.cuda import dnn
from theano.sandbox.cuda.basic_ops import gpu_contiguous

from pylearn2.sandbox.cuda_convnet.filter_acts import FilterActs
from pylearn2.sandbox.cuda_convnet.pool import MaxPool

BATCH = 16


def unpickle(name):
    with open(name, 'rb') as file:
        return pickle.load(file) if sys.version_info.major == 2 else pickle.load(file, encoding='latin-1')


def load(folder):
    parts = [unpickle(folder + '/' + name) for name in ('data_batch_1', 'test_batch')]
    images = [part['data'].reshape(-1, 3, 32, 32)[:, :, ::4, ::4].astype(theano.config.floatX) / 255. for part in parts]
    mean = images[0].mean(axis=0)
    # c01b: the batch goes last
    return [(np.rollaxis(x - mean, 0, 4), np.array(part['labels'])) for x, part in zip(images, parts)]


class Weight(object):
    def __init__(self, shape, std=0.1, value=0):
        drawn = rng.normal(value, std, shape) if std else value * np.ones(shape)
        self.np_values = np.asarray(drawn, dtype=theano.config.floatX)
        self.val = theano.shared(value=self.np_values)


def normalised(bc01, alpha=1e-4, k=2, beta=0.75, n=5):
    half, squares = n // 2, T.sqr(bc01)
    b, channels, rows, columns = bc01.shape
    wider = T.alloc(0., b, channels + 2 * half, rows, columns)
    squares = T.set_subtensor(wider[:, half:half + channels, :, :], squares)
    scale = k
    for i in range(n):
        scale += alpha * squares[:, i:i + channels, :, :]
    return bc01 / scale ** beta


class ConvPool(object):
    def __init__(self, library, x, channels, filters, length, stride, pad, group=1, pool=None, bias=0.):
        self.library, self.stride, self.pad = library, stride, pad
        shape = (channels // group, length, length, filters // group)
        banks = [(Weight(shape), Weight(filters // group, 0, bias)) for _ in range(group)]
        self.params = [weight.val for bank in banks for weight in bank]
        per_group = channels // group
        maps = [self.convolve(x[i * per_group:(i + 1) * per_group, :, :, :], W.val, b.val) for i, (W, b) in enumerate(banks)]
        out = T.maximum(maps[0] if group == 1 else T.concatenate(maps, axis=0), 0)
        if pool:
            if library == 'cudnn':
                out = dnn.dnn_pool(out.dimshuffle(3, 0, 1, 2), ws=(pool, pool), stride=(2, 2)).dimshuffle(1, 2, 3, 0)
            else:
                out = MaxPool(ds=pool, stride=2)(gpu_contiguous(out))
            out = normalised(out.dimshuffle(3, 0, 1, 2)).dimshuffle(1, 2, 3, 0)
        self.output = out

    def convolve(self, x, W, b):
        if self.library == 'cudnn':
            x, W = gpu_contiguous(x.dimshuffle(3, 0, 1, 2)), gpu_contiguous(W.dimshuffle(3, 0, 1, 2))
            out = dnn.dnn_conv(img=x, kerns=W, subsample=(self.stride,) * 2, border_mode=self.pad)
            return (out + b.dimshuffle('x', 0, 'x', 'x')).dimshuffle(1, 2, 3, 0)
        out = FilterActs(pad=self.pad, stride=self.stride, partial_sum=1)(gpu_contiguous(x), gpu_contiguous(W))
        return out + b.dimshuffle(0, 'x', 'x', 'x')


class Dropout(object):
    layers = []

    def __init__(self, x, keep=0.8):
        self.on = theano.shared(np.asarray(1., dtype=theano.config.floatX))
        streams = theano.tensor.shared_randomstreams.RandomStreams(rng.randint(0, 2 ** 31 - 1))
        mask = T.cast(streams.binomial(n=1, p=keep, size=x.shape), theano.config.floatX)
        self.output = self.on * mask * x + (1. - self.on) * keep * x
        Dropout.layers.append(self)

    @staticmethod
    def off():
        for layer in Dropout.layers:
            layer.on.set_value(0.)


(train_x, train_y), (test_x, test_y) = load(sys.argv[1])
results = {}
for library in ('cudnn', 'cudaconvnet'):
    rng = np.random.RandomState(1)
    x, y = T.ftensor4('x'), T.lvector('y')
    first = ConvPool(library, x, 3, 6, 5, 1, 2, pool=3)
    second = ConvPool(library, first.output, 6, 6, 3, 1, 1, group=2, bias=0.1)
    side = 3 if library == 'cudnn' else 4  # cuda-convnet's pooling rounds up
    dropped = Dropout(T.flatten(second.output.dimshuffle(3, 0, 1, 2), 2))
    W, b = Weight((6 * side * side, 4)), Weight(4, 0)
    p = T.nnet.softmax(T.dot(dropped.output, W.val) + b.val)
    cost, errors = -T.mean(T.log(p)[T.arange(y.shape[0]), y]), T.mean(T.neq(T.argmax(p, axis=1), y))
    rate, updates = theano.shared(np.float32(0.05)), []
    params = first.params + second.params + [W.val, b.val]
    for param, gradient in zip(params, T.grad(cost, params)):
        velocity = theano.shared(param.get_value() * 0.)
        new = 0.9 * velocity - rate * (gradient + 0.0005 * param)
        updates += [(velocity, new), (param, param + new)]
    shared_x = theano.shared(np.zeros((3, 8, 8, BATCH), dtype=theano.config.floatX), borrow=True)
    shared_y = theano.shared(np.zeros((BATCH,), dtype=int), borrow=True)
    train = theano.function([], cost, updates=updates, givens=[(x, shared_x), (y, shared_y)])
    validate = theano.function([], [cost, errors], givens=[(x, shared_x), (y, shared_y)])
    costs = []
    for epoch in range(8):
        for i in range(0, len(train_y), BATCH):
            shared_x.set_value(train_x[:, :, :, i:i + BATCH])
            shared_y.set_value(train_y[i:i + BATCH])
            costs.append(float(train()))
    Dropout.off()
    shared_x.set_value(test_x[:, :, :, :BATCH])
    shared_y.set_value(test_y[:BATCH])
    results[library] = costs, validate()
    print(library, costs[0], costs[-1], results[library][1])
