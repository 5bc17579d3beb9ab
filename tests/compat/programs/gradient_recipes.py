"""Recipes with gradients of one's own: guided backpropagation, gradients turned round, rounding that passes gradients."""
import numpy as np
import theano
import theano.tensor as T
from theano.scalar.basic import UnaryScalarOp, same_out_nocomplex
from theano.tensor.elemwise import Elemwise

floatX = theano.config.floatX


class Guided(object):
    """A rectifier through which only positive gradients pass back."""

    def __init__(self):
        self.ops = {}

    def __call__(self, x):
        to_gpu = theano.sandbox.cuda.as_cuda_ndarray_variable if theano.sandbox.cuda.cuda_enabled else lambda v: v
        x = to_gpu(x)
        if x.type not in self.ops:
            inside = x.type()
            op = theano.OpFromGraph([inside], [to_gpu(T.nnet.relu(inside))])
            op.grad = self.grad
            self.ops[x.type] = op
        return self.ops[x.type](x)

    def grad(self, inputs, out_grads):
        (x,), (g,) = inputs, out_grads
        return (g * (x > 0).astype(x.dtype) * (g > 0).astype(x.dtype),)


class TurnedRound(theano.gof.Op):
    view_map = {0: [0]}
    __props__ = ('strength',)

    def __init__(self, strength):
        super(TurnedRound, self).__init__()
        self.strength = strength

    def make_node(self, x):
        x = theano.tensor.as_tensor_variable(x)
        return theano.Apply(self, [x], [x.type()])

    def perform(self, node, inputs, output_storage):
        output_storage[0][0] = inputs[0]

    def grad(self, inputs, output_gradients):
        return [-self.strength * output_gradients[0]]

    def infer_shape(self, node, i0_shapes):
        return i0_shapes


class Round(UnaryScalarOp):
    def impl(self, x):
        return np.round(x)

    def c_code(self, node, name, inputs, outputs, sub):
        (x,), (z,) = inputs, outputs
        return "%(z)s = round(%(x)s);" % locals()

    def grad(self, inputs, gout):
        (gz,) = gout
        return gz,


rounded = Elemwise(Round(same_out_nocomplex, name='rounded'))

X = T.tensor4('X')
W = theano.shared(np.random.RandomState(0).randn(4, 1, 3, 3).astype(floatX))
image = np.random.RandomState(1).randn(2, 1, 7, 7).astype(floatX)
saliencies = []
for rectifier in (T.nnet.relu, Guided()):
    maps = rectifier(T.nnet.conv2d(X, W))
    score = -maps.max(axis=(1, 2, 3)).sum()
    saliencies.append(theano.function([X], theano.grad(score, wrt=X))(image))

v = T.vector('v')
values = np.array([-0.7, 0.3], dtype=floatX)
turned = theano.function([v], T.grad(TurnedRound(0.5)(v).sum(), v))(values)
binary = 2. * rounded(T.clip((v + 1.) / 2., 0, 1)) - 1.
binaries, passed = theano.function([v], [binary, T.grad(binary.sum(), v)])(values)
stopped = theano.function([v], T.grad((v * theano.gradient.disconnected_grad(v)).sum(), v))(values)
print(saliencies[1].max(), turned, binaries, passed, stopped)
