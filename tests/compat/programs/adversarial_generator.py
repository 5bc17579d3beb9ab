"""A generator of images: cuDNN's descriptors for 'deconvolution', batch normalisation, sigmoid costs, Adam."""
import numpy as np
import theano
import theano.tensor as T
from theano.sandbox.cuda.basic_ops import (as_cuda_ndarray_variable, host_from_gpu, gpu_contiguous, HostFromGpu,
                                           gpu_alloc_empty)
from theano.sandbox.cuda.dnn import GpuDnnConvDesc, GpuDnnConv, GpuDnnConvGradI, dnn_conv, dnn_pool
from theano.sandbox.rng_mrg import MRG_RandomStreams as RandomStreams

floatX = theano.config.floatX
t_rng = RandomStreams(seed=11)


def sharedX(value, dtype=theano.config.floatX, name=None, borrow=False, broadcastable=None):
    return theano.shared(np.asarray(value, dtype=dtype), name=name, borrow=borrow, broadcastable=broadcastable)


def l2normalize(x, axis=1, e=1e-8, keepdims=True):
    return x / T.sqrt(T.sum(T.sqr(x), axis=axis, keepdims=keepdims) + e)


def lrelu(X, leak=0.2):
    return 0.5 * (1 + leak) * X + 0.5 * (1 - leak) * abs(X)


def deconv(X, w, subsample=(1, 1), border_mode=(0, 0), conv_mode='conv'):
    img = gpu_contiguous(X)
    kerns = gpu_contiguous(w)
    desc = GpuDnnConvDesc(border_mode=border_mode, subsample=subsample, conv_mode=conv_mode)(
        gpu_alloc_empty(img.shape[0], kerns.shape[1], img.shape[2] * subsample[0], img.shape[3] * subsample[1]).shape,
        kerns.shape)
    out = gpu_alloc_empty(img.shape[0], kerns.shape[1], img.shape[2] * subsample[0], img.shape[3] * subsample[1])
    d_img = GpuDnnConvGradI()(kerns, img, out, desc)
    return d_img


def batchnorm(X, g=None, b=None, e=1e-8):
    if X.ndim == 4:
        u = T.mean(X, axis=[0, 2, 3])
        s = T.mean(T.sqr(X - u.dimshuffle('x', 0, 'x', 'x')), axis=[0, 2, 3])
        X = (X - u.dimshuffle('x', 0, 'x', 'x')) / T.sqrt(s.dimshuffle('x', 0, 'x', 'x') + e)
        if g is not None and b is not None:
            X = X * g.dimshuffle('x', 0, 'x', 'x') + b.dimshuffle('x', 0, 'x', 'x')
    elif X.ndim == 2:
        u = T.mean(X, axis=0)
        s = T.mean(T.sqr(X - u), axis=0)
        X = (X - u) / T.sqrt(s + e)
        if g is not None and b is not None:
            X = X * g + b
    else:
        raise NotImplementedError
    return X


def gen(Z, w, w2, wx):
    h = T.nnet.relu(batchnorm(T.dot(Z, w)))
    h = h.reshape((h.shape[0], 4, 3, 3))
    h2 = T.nnet.relu(batchnorm(deconv(h, w2, subsample=(2, 2), border_mode=(2, 2))))
    return T.nnet.sigmoid(deconv(h2, wx, subsample=(2, 2), border_mode=(2, 2)))


def discrim(X, w, wy):
    h = lrelu(dnn_conv(X, w, subsample=(2, 2), border_mode=(2, 2)))
    h = dnn_pool(h, (2, 2), stride=(2, 2), mode='max')
    return T.nnet.sigmoid(T.dot(T.flatten(h, 2), wy))


def adam(params, grads, lr=np.float32(0.01), b1=np.float32(0.5), b2=np.float32(0.999), e=np.float32(1e-8)):
    updates = []
    t = sharedX(1.)
    for p, g in zip(params, grads):
        m = sharedX(p.get_value() * 0.)
        v = sharedX(p.get_value() * 0.)
        m_t = b1 * m + (1 - b1) * g
        v_t = b2 * v + (1 - b2) * g ** 2
        p_t = p - lr * (m_t / (1 - b1 ** t)) / (T.sqrt(v_t / (1 - b2 ** t)) + e)
        updates += [(m, m_t), (v, v_t), (p, p_t)]
    updates.append((t, t + np.float32(1)))
    return updates


if __name__ == '__main__':
    rng = np.random.RandomState(0)
    normal = lambda *shape: sharedX(0.1 * rng.normal(size=shape))
    gen_params = [normal(5, 4 * 3 * 3), normal(4, 3, 5, 5), normal(3, 1, 5, 5)]
    discrim_params = [normal(4, 1, 5, 5), normal(4 * 3 * 3, 1)]
    X = T.tensor4()
    Z = t_rng.uniform(size=(8, 5), low=-1., high=1., dtype=theano.config.floatX)
    gX = gen(Z, *gen_params)
    p_real = discrim(X, *discrim_params)
    p_gen = discrim(gX, *discrim_params)
    d_cost = (T.nnet.binary_crossentropy(p_real, T.ones(p_real.shape)).mean()
              + T.nnet.binary_crossentropy(p_gen, T.zeros(p_gen.shape)).mean())
    g_cost = T.nnet.binary_crossentropy(p_gen, T.ones(p_gen.shape)).mean()
    print('COMPILING')
    _train_g = theano.function([X], [g_cost, d_cost], updates=adam(gen_params, T.grad(g_cost, gen_params)),
                               on_unused_input='ignore')
    _train_d = theano.function([X], [g_cost, d_cost], updates=adam(discrim_params, T.grad(d_cost, discrim_params)))
    _gen = theano.function([], gX)
    real = (rng.uniform(size=(8, 1, 12, 12)) < .2).astype(floatX)
    costs = []
    for step in range(6):
        train = _train_g if step % 3 == 2 else _train_d
        costs.append([float(cost) for cost in train(real)])
    samples = _gen(), _gen()
    print('g %.3f, d %.3f' % tuple(costs[-1]))
