"""A layer library around pylearn2's wrapper of cuda-convnet, from before Theano's own convolutions were fast."""

import numpy as np
import theano
import theano.tensor as T

import theano.sandbox.cuda

if not theano.sandbox.cuda.cuda_enabled:
    raise ImportError("requires GPU support")

from theano.sandbox.cuda.basic_ops import gpu_contiguous
from pylearn2.sandbox.cuda_convnet.filter_acts import FilterActs
from pylearn2.sandbox.cuda_convnet.pool import MaxPool
from pylearn2.sandbox.cuda_convnet.response_norm import CrossMapNorm

import made_up_digits

rng = np.random.RandomState(2)
floatX = theano.config.floatX


class Input2DLayer(object):
    def __init__(self, mb_size, n_features, width, height):
        self.mb_size, self.n_features, self.width, self.height = mb_size, n_features, width, height
        self.input_var = T.tensor4('input')
        self.params, self.bias_params = [], []

    def get_output_shape(self):
        return (self.mb_size, self.n_features, self.width, self.height)

    def output(self, *args, **kwargs):
        return self.input_var


class ShuffleBC01ToC01BLayer(object):
    """Like dimshuffle, but here the batch comes last, as cuda-convnet wants it."""
    def __init__(self, input_layer):
        self.input_layer = input_layer
        self.mb_size = input_layer.mb_size
        self.params, self.bias_params = [], []

    def get_output_shape(self):
        b, c, h, w = self.input_layer.get_output_shape()
        return (c, h, w, b)

    def output(self, *args, **kwargs):
        return self.input_layer.output(*args, **kwargs).dimshuffle(1, 2, 3, 0)


class ShuffleC01BToBC01Layer(ShuffleBC01ToC01BLayer):
    def get_output_shape(self):
        c, h, w, b = self.input_layer.get_output_shape()
        return (b, c, h, w)

    def output(self, *args, **kwargs):
        return self.input_layer.output(*args, **kwargs).dimshuffle(3, 0, 1, 2)


class CudaConvnetConv2DLayer(object):
    def __init__(self, input_layer, n_filters, filter_size, weights_std, init_bias_value, stride=1, dropout=0.,
                 partial_sum=None, pad=0, untie_biases=False):
        self.input_layer = input_layer
        self.mb_size = input_layer.mb_size
        self.stride, self.pad, self.n_filters, self.filter_size = stride, pad, n_filters, filter_size
        self.dropout = dropout
        self.input_shape = input_layer.get_output_shape()
        self.filter_shape = (self.input_shape[0], filter_size, filter_size, n_filters)
        self.W = theano.shared(rng.randn(*self.filter_shape).astype(floatX) * np.float32(weights_std))
        if untie_biases:
            self.b = theano.shared(np.ones(self.get_output_shape()[:3], dtype=floatX) * init_bias_value)
        else:
            self.b = theano.shared(np.ones(n_filters, dtype=floatX) * np.float32(init_bias_value))
        self.untie_biases = untie_biases
        self.params = [self.W, self.b]
        self.bias_params = [self.b]
        self.srng = T.shared_randomstreams.RandomStreams(7)
        self.filter_acts_op = FilterActs(stride=self.stride, partial_sum=partial_sum, pad=self.pad)

    def get_output_shape(self):
        output_width = int(np.ceil((self.input_shape[1] + 2 * self.pad - self.filter_size + self.stride)
                                   / float(self.stride)))
        return (self.n_filters, output_width, output_width, self.mb_size)

    def output(self, input=None, dropout_active=True, *args, **kwargs):
        if input is None:
            input = self.input_layer.output(dropout_active=dropout_active)
        if dropout_active and (self.dropout > 0.):
            retain_prob = 1 - self.dropout
            mask = self.srng.binomial(input.shape, p=retain_prob, dtype='int32').astype('float32')
            input = input / retain_prob * mask
        contiguous_input = gpu_contiguous(input)
        contiguous_filters = gpu_contiguous(self.W)
        conved = self.filter_acts_op(contiguous_input, contiguous_filters)
        if self.untie_biases:
            conved += self.b.dimshuffle(0, 1, 2, 'x')
        else:
            conved += self.b.dimshuffle(0, 'x', 'x', 'x')
        return T.maximum(conved, 0.)


class CudaConvnetPooling2DLayer(object):
    def __init__(self, input_layer, pool_size, stride=None):
        self.pool_size = pool_size
        self.stride = stride if stride is not None else pool_size
        self.input_layer = input_layer
        self.mb_size = input_layer.mb_size
        self.params, self.bias_params = [], []
        self.pool_op = MaxPool(ds=self.pool_size, stride=self.stride)

    def get_output_shape(self):
        c, h, w, b = self.input_layer.get_output_shape()
        size = int(np.ceil(float(w - self.pool_size + self.stride) / self.stride))
        return (c, size, size, b)

    def output(self, *args, **kwargs):
        return self.pool_op(gpu_contiguous(self.input_layer.output(*args, **kwargs)))


class CudaConvnetCrossMapNormLayer(object):
    def __init__(self, input_layer, alpha=1e-4, beta=0.75, size_f=5, blocked=True):
        self.input_layer = input_layer
        self.mb_size = input_layer.mb_size
        self.params, self.bias_params = [], []
        self.norm_op = CrossMapNorm(size_f=size_f, add_scale=alpha, pow_scale=beta, blocked=blocked)

    def get_output_shape(self):
        return self.input_layer.get_output_shape()

    def output(self, *args, **kwargs):
        return self.norm_op(gpu_contiguous(self.input_layer.output(*args, **kwargs)))[0]


class SoftmaxLayer(object):
    def __init__(self, input_layer, n_classes):
        self.input_layer = input_layer
        n_inputs = int(np.prod(input_layer.get_output_shape()[1:]))
        self.W = theano.shared(np.zeros((n_inputs, n_classes), dtype=floatX))
        self.b = theano.shared(np.zeros(n_classes, dtype=floatX))
        self.params = [self.W, self.b]

    def output(self, *args, **kwargs):
        return T.nnet.softmax(T.dot(self.input_layer.output(*args, **kwargs).flatten(2), self.W) + self.b)


if __name__ == '__main__':
    (images, labels) = made_up_digits.load()[0]
    l0 = Input2DLayer(32, 1, 12, 12)
    l1 = ShuffleBC01ToC01BLayer(l0)
    l2 = CudaConvnetConv2DLayer(l1, n_filters=16, filter_size=5, weights_std=0.1, init_bias_value=0.01, pad=2,
                                partial_sum=1)
    l3 = CudaConvnetPooling2DLayer(l2, pool_size=3, stride=2)
    l4 = CudaConvnetCrossMapNormLayer(l3)
    l5 = CudaConvnetConv2DLayer(l4, n_filters=16, filter_size=3, weights_std=0.1, init_bias_value=0.01, stride=2,
                                dropout=0.2)
    l6 = ShuffleC01BToBC01Layer(l5)
    l7 = SoftmaxLayer(l6, 4)
    params = l2.params + l5.params + l7.params

    y = T.ivector('y')
    cost = -T.mean(T.log(l7.output())[T.arange(y.shape[0]), y])
    momentum, learning_rate = np.float32(0.9), theano.shared(np.array(0.02, dtype=floatX))
    updates = []
    for param_i, grad_i in zip(params, theano.grad(cost, params)):
        mparam_i = theano.shared(np.zeros(param_i.get_value().shape, dtype=floatX))
        v = momentum * mparam_i - learning_rate * grad_i
        updates.append((mparam_i, v))
        updates.append((param_i, param_i + v))

    idx = T.lscalar('idx')
    data = theano.shared(images.reshape(-1, 1, 12, 12).astype(floatX))
    targets = T.cast(theano.shared(labels.astype(floatX)), 'int32')
    givens = {l0.input_var: data[idx * 32:(idx + 1) * 32], y: targets[idx * 32:(idx + 1) * 32]}
    iter_train = theano.function([idx], cost, givens=givens, updates=updates)
    shape = theano.function([idx], l6.output(dropout_active=False).shape, givens=givens, on_unused_input='ignore')(0)
    costs = [float(iter_train(b)) for e in range(5) for b in range(5)]
    print('cost %.3f -> %.3f' % (costs[0], costs[-1]))
