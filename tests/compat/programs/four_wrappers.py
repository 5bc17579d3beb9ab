"""One small network through each wrapper that layer libraries had: nnet.conv2d, GpuCorrMM, cuDNN and cuda-convnet."""
from collections import OrderedDict

import numpy as np
import theano
import theano.tensor as T
from theano.sandbox.cuda import dnn
from theano.sandbox.cuda.basic_ops import gpu_contiguous
from theano.sandbox.cuda.blas import GpuCorrMM
from theano.sandbox.rng_mrg import MRG_RandomStreams
from theano.tensor.signal import downsample

from pylearn2.sandbox.cuda_convnet.filter_acts import FilterActs
from pylearn2.sandbox.cuda_convnet.pool import MaxPool

if not dnn.dnn_available():
    raise ImportError("cuDNN not available: %s" % dnn.dnn_available.msg)


def floatX(values):
    return np.asarray(values, dtype=theano.config.floatX)


class Parameters(object):
    def __init__(self, seed):
        self.rng, self.all = np.random.RandomState(seed), []

    def make(self, shape, scale=0.2):
        values = self.rng.uniform(-scale, scale, shape) if scale else np.zeros(shape)
        variable = theano.shared(floatX(values), broadcastable=tuple(length == 1 for length in shape))
        assert isinstance(variable, theano.compile.SharedVariable) and not isinstance(variable, T.TensorVariable)
        self.all.append(variable)
        return variable


class Plain(object):
    def convolve(self, x, W, stride, pad):
        return T.nnet.conv2d(x, W, input_shape=(None, W.get_value().shape[1], None, None), subsample=(stride, stride),
                             border_mode=(pad, pad), filter_shape=W.get_value(borrow=True).shape)

    def pool(self, x, size, stride):
        return downsample.max_pool_2d(x, ds=(size, size), st=(stride, stride), ignore_border=True, padding=(0, 0))


class ByGemm(Plain):
    def convolve(self, x, W, stride, pad):
        op = GpuCorrMM(subsample=(stride, stride), border_mode=(pad, pad))
        return op(gpu_contiguous(x), gpu_contiguous(W[:, :, ::-1, ::-1]))


class ByCudnn(Plain):
    def convolve(self, x, W, stride, pad):
        return dnn.dnn_conv(img=x, kerns=W, subsample=(stride, stride), border_mode=(pad, pad), conv_mode='conv')

    def pool(self, x, size, stride):
        return dnn.dnn_pool(x, (size, size), (stride, stride), 'max', (0, 0))


class ByCudaConvnet(Plain):
    def convolve(self, x, W, stride, pad):
        op = FilterActs(stride=stride, partial_sum=1, pad=pad)
        c01b = op(gpu_contiguous(x.dimshuffle(1, 2, 3, 0)), gpu_contiguous(W.dimshuffle(1, 2, 3, 0)[:, ::-1, ::-1, :]))
        return c01b.dimshuffle(3, 0, 1, 2)

    def pool(self, x, size, stride):
        return MaxPool(ds=size, stride=stride)(gpu_contiguous(x.dimshuffle(1, 2, 3, 0))).dimshuffle(3, 0, 1, 2)


def adam(loss, params, rate=0.01):
    updates, t = OrderedDict(), theano.shared(floatX(0.))
    one, now = T.constant(1), t + 1
    step = rate * T.sqrt(one - 0.999 ** now) / (one - 0.9 ** now)
    for param, gradient in zip(params, theano.grad(loss, params)):
        zeros = np.zeros(param.get_value(borrow=True).shape, dtype=theano.config.floatX)
        m, v = [theano.shared(zeros, broadcastable=param.broadcastable) for _ in range(2)]
        updates[m] = 0.9 * m + (one - 0.9) * gradient
        updates[v] = 0.999 * v + (one - 0.999) * gradient ** 2
        updates[param] = param - step * updates[m] / (T.sqrt(updates[v]) + 1e-8)
    updates[t] = now
    return updates


def train(wrapper, steps=8):
    made = Parameters(3)
    x, y = T.tensor4('inputs'), T.ivector('targets')
    W1, b1, W2 = made.make((8, 3, 3, 3)), made.make((8,), 0), made.make((4, 8, 2, 2))
    h = T.nnet.relu(wrapper.convolve(x, W1, 1, 1) + b1.dimshuffle('x', 0, 'x', 'x'))
    h = T.nnet.relu(wrapper.convolve(wrapper.pool(h, 3, 2), W2, 1, 0), 0.1)
    srng = MRG_RandomStreams(np.random.RandomState(1).randint(1, 2147462579))

    def head(noise):
        hidden = h * srng.binomial(h.shape, p=0.9, dtype=h.dtype) / 0.9 if noise else h
        return T.nnet.softmax(T.dot(hidden.flatten(2), W3))

    W3 = made.make((4 * 4 * 4, 3))
    loss = T.nnet.categorical_crossentropy(head(True), y).mean()
    assert set(made.all) == set(v for v in theano.gof.graph.inputs([loss])
                                if isinstance(v, theano.compile.SharedVariable) and not hasattr(v.tag, 'is_rng'))
    step = theano.function([x, y], loss, updates=adam(loss, made.all))
    test = T.nnet.categorical_crossentropy(head(False), y).mean()
    accuracy = T.mean(T.eq(T.argmax(head(False), axis=1), y), dtype=theano.config.floatX)
    check = theano.function([x, y], [test, accuracy])
    first = float(check(images, labels)[0])
    for _ in range(steps):
        step(images, labels)
    return (first,) + tuple(float(value) for value in check(images, labels))


rng = np.random.RandomState(0)
labels = rng.randint(0, 3, 24).astype('int32')
images = floatX(rng.rand(24, 3, 11, 11) * 0.3)
for image, label in zip(images, labels):
    image[label] += 0.5
results = OrderedDict()
for wrapper in (Plain(), ByGemm(), ByCudnn(), ByCudaConvnet()):
    results[type(wrapper).__name__] = train(wrapper)
    print('%-14s first cost %.6f, last %.6f, accuracy %.2f' % ((type(wrapper).__name__,) + results[type(wrapper).__name__]))
