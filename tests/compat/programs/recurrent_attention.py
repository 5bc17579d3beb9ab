"""What recurrent convolutional programs used: scan with taps and masks, ifelse, clone, test values, debug modes."""
import numpy as np
import theano
import theano.tensor as tensor
from theano import config, gof
from theano.compile.nanguardmode import NanGuardMode
from theano.gradient import disconnected_grad, grad_clip
from theano.ifelse import ifelse
from theano.sandbox.rng_mrg import MRG_RandomStreams as RandomStreams

config.compute_test_value = 'off'
trng = RandomStreams(1234)


def numpy_floatX(data):
    return np.asarray(data, dtype=config.floatX)


def _p(pp, name):
    return '%s_%s' % (pp, name)


def init_tparams(params):
    return {name: theano.shared(value, name=name) for name, value in params.items()}


def lstm_layer(tparams, state_below, mask, dim, prefix='lstm'):
    nsteps = state_below.shape[0]
    n_samples = state_below.shape[1] if state_below.ndim == 3 else 1
    assert mask is not None

    def _slice(_x, n, dim):
        if _x.ndim == 3:
            return _x[:, :, n * dim:(n + 1) * dim]
        return _x[:, n * dim:(n + 1) * dim]

    def _step(m_, x_, h_, c_):
        preact = tensor.dot(h_, tparams[_p(prefix, 'U')])
        preact += x_
        i = tensor.nnet.sigmoid(_slice(preact, 0, dim))
        f = tensor.nnet.sigmoid(_slice(preact, 1, dim))
        o = tensor.nnet.hard_sigmoid(_slice(preact, 2, dim))
        c = tensor.tanh(_slice(preact, 3, dim))
        c = f * c_ + i * c
        c = m_[:, None] * c + (1. - m_)[:, None] * c_
        h = o * tensor.tanh(c)
        h = m_[:, None] * h + (1. - m_)[:, None] * h_
        return h, c

    state_below = (tensor.dot(state_below, tparams[_p(prefix, 'W')]) + tparams[_p(prefix, 'b')])
    rval, updates = theano.scan(_step,
                                sequences=[mask, state_below],
                                outputs_info=[tensor.alloc(numpy_floatX(0.), n_samples, dim),
                                              tensor.alloc(numpy_floatX(0.), n_samples, dim)],
                                name=_p(prefix, '_layers'),
                                n_steps=nsteps)
    return rval[0]


if __name__ == '__main__':
    rng = np.random.RandomState(0)
    dim, steps, samples = 3, 5, 4
    tparams = init_tparams({
        'lstm_W': numpy_floatX(.3 * rng.randn(2, 4 * dim)),
        'lstm_U': numpy_floatX(.3 * rng.randn(dim, 4 * dim)),
        'lstm_b': numpy_floatX(np.zeros(4 * dim)),
        'U': numpy_floatX(.3 * rng.randn(dim, 2)),
    })
    use_noise = theano.shared(numpy_floatX(0.))
    x = tensor.tensor3('x', dtype=config.floatX)
    mask = tensor.matrix('mask', dtype=config.floatX)
    y = tensor.vector('y', dtype='int64')
    proj = lstm_layer(tparams, x, mask, dim)
    proj = (proj * mask[:, :, None]).sum(axis=0)
    proj = proj / mask.sum(axis=0)[:, None]
    proj = tensor.switch(use_noise,
                         (proj * trng.binomial(proj.shape, p=0.5, n=1, dtype=proj.dtype)),
                         proj * 0.5)
    pred = tensor.nnet.softmax(tensor.dot(grad_clip(proj, -1., 1.), tparams['U']))
    off = 1e-8
    cost = -tensor.log(pred[tensor.arange(y.shape[0]), y] + off).mean()
    wrt = list(tparams.values())
    grads = tensor.grad(cost, wrt=wrt)
    norm = tensor.sqrt(sum((g ** 2).sum() for g in grads))
    grads = [ifelse(tensor.gt(norm, 1.), g / norm, g) for g in grads]

    gshared = [theano.shared(p.get_value() * 0., name='%s_grad' % p.name) for p in wrt]
    f_grad_shared = theano.function([x, mask, y], cost, updates=[(gs, g) for gs, g in zip(gshared, grads)])
    lr = tensor.scalar(name='lr')
    f_update = theano.function([lr], [], updates=[(p, p - lr * g) for p, g in zip(wrt, gshared)],
                               mode=NanGuardMode(nan_is_error=True, inf_is_error=True, big_is_error=True))
    data = [numpy_floatX(rng.randn(steps, samples, 2)), numpy_floatX(np.ones((steps, samples))), np.array([0, 1, 1, 0])]
    use_noise.set_value(0.)
    costs = []
    for step in range(6):
        costs.append(float(f_grad_shared(*data)))
        f_update(0.5)

    # Fibonacci numbers by taps, a power by accumulation, the sum of a sequence by reduce
    (fibonacci, _) = theano.scan(lambda a, b: a + b, n_steps=6,
                                 outputs_info=[dict(initial=tensor.as_tensor_variable(np.array([0, 1])),
                                                    taps=[-2, -1])])
    k = tensor.iscalar('k')
    A = tensor.vector('A')
    result, updates = theano.scan(fn=lambda prior_result, A: prior_result * A, outputs_info=tensor.ones_like(A),
                                  non_sequences=A, n_steps=k)
    power = theano.function(inputs=[A, k], outputs=result[-1], updates=updates)
    total, _ = theano.reduce(lambda v, acc: v + acc, A, tensor.zeros((), dtype=A.dtype))
    numbers = fibonacci.eval(), power(numpy_floatX([1, 2, 3]), 3), total.eval({A: numpy_floatX([1, 2, 3])})

    # a graph with one input replaced, and what it is computed from
    other = theano.clone(cost, replace={x: 2. * x})
    inputs = gof.graph.inputs([other])
    replaced = theano.function([x, mask, y], [cost, other])(*data)
    stopped = theano.grad((disconnected_grad(A) * A).sum(), A).eval({A: numpy_floatX([1, 2, 3])})
    print(theano.pp(tensor.exp(A)), 'cost %.3f -> %.3f' % (costs[0], costs[-1]))
