"""A modern net as short scripts wrote it: rectifiers, 'full' convolutions, dropout by MRG, RMSprop, softmax by hand."""
import numpy as np
import theano
from beside import digits  # the loader lies beside the script
from theano import tensor as T
from theano.sandbox.rng_mrg import MRG_RandomStreams as RandomStreams
from theano.tensor.nnet.conv import conv2d
from theano.tensor.signal.downsample import max_pool_2d

srng = RandomStreams()


def floatX(X):
    return np.asarray(X, dtype=theano.config.floatX)


def init(shape):
    return theano.shared(floatX(np.random.RandomState(sum(shape)).randn(*shape) * 0.1))


def rectify(X):
    return T.maximum(X, 0.)


def softmax(X):
    e = T.exp(X - X.max(axis=1).dimshuffle(0, 'x'))
    return e / e.sum(axis=1).dimshuffle(0, 'x')


def dropout(X, p=0.):
    if p > 0:
        X *= srng.binomial(X.shape, p=1 - p, dtype=theano.config.floatX)
        X /= 1 - p
    return X


def rmsprop(cost, params, lr=0.01, rho=0.9, epsilon=1e-6):
    updates = []
    for p, g in zip(params, T.grad(cost=cost, wrt=params)):
        seen = theano.shared(p.get_value() * 0.)
        seen_new = rho * seen + (1 - rho) * g ** 2
        updates.append((seen, seen_new))
        updates.append([p, p - lr * g / T.sqrt(seen_new + epsilon)])
    return updates


def model(X, p_conv, p_hidden):
    h = dropout(max_pool_2d(rectify(conv2d(X, w1, border_mode='full')), (2, 2)), p_conv)
    h = dropout(max_pool_2d(rectify(conv2d(h, w2)), (2, 2)), p_conv)
    h = dropout(rectify(T.dot(T.flatten(h, outdim=2), w3)), p_hidden)
    return softmax(T.dot(h, w_o))


X, Y = T.ftensor4(), T.fmatrix()
images, targets = digits(48)
w1, w2, w3, w_o = init((4, 1, 3, 3)), init((6, 4, 3, 3)), init((6 * 3 * 3, 16)), init((16, 3))
params = [w1, w2, w3, w_o]
cost = T.mean(T.nnet.categorical_crossentropy(model(X, 0.1, 0.2), Y))
train = theano.function(inputs=[X, Y], outputs=cost, updates=rmsprop(cost, params), allow_input_downcast=True)
predict = theano.function(inputs=[X], outputs=T.argmax(model(X, 0., 0.), axis=1), allow_input_downcast=True)
costs = []
for i in range(6):
    for start, end in zip(range(0, len(images), 16), range(16, len(images) + 1, 16)):
        costs.append(float(train(images[start:end], targets[start:end])))
    accuracy = np.mean(np.argmax(targets, axis=1) == predict(images))
    print(i, accuracy)
