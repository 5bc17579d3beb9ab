"""Persistent contrastive divergence: Gibbs steps in a scan, whose random streams are updated too."""
import made_up_digits
import numpy
import theano
import theano.tensor as T
from theano.tensor.shared_randomstreams import RandomStreams


class RBM(object):
    def __init__(self, input, n_visible, n_hidden, numpy_rng):
        self.theano_rng = RandomStreams(numpy_rng.randint(2 ** 30))
        self.W = theano.shared(numpy.asarray(numpy_rng.uniform(low=-.3, high=.3, size=(n_visible, n_hidden)),
                                             dtype=theano.config.floatX), name='W', borrow=True)
        self.hbias = theano.shared(numpy.zeros(n_hidden, dtype=theano.config.floatX), name='hbias', borrow=True)
        self.vbias = theano.shared(numpy.zeros(n_visible, dtype=theano.config.floatX), name='vbias', borrow=True)
        self.input = input
        self.params = [self.W, self.hbias, self.vbias]

    def free_energy(self, v_sample):
        wx_b = T.dot(v_sample, self.W) + self.hbias
        vbias_term = T.dot(v_sample, self.vbias)
        hidden_term = T.sum(T.log(1 + T.exp(wx_b)), axis=1)
        return -hidden_term - vbias_term

    def sample_h_given_v(self, v0_sample):
        h1_mean = T.nnet.sigmoid(T.dot(v0_sample, self.W) + self.hbias)
        h1_sample = self.theano_rng.binomial(size=h1_mean.shape, n=1, p=h1_mean, dtype=theano.config.floatX)
        return [h1_mean, h1_sample]

    def sample_v_given_h(self, h0_sample):
        pre_sigmoid_v1 = T.dot(h0_sample, self.W.T) + self.vbias
        v1_mean = T.nnet.sigmoid(pre_sigmoid_v1)
        v1_sample = self.theano_rng.binomial(size=v1_mean.shape, n=1, p=v1_mean, dtype=theano.config.floatX)
        return [pre_sigmoid_v1, v1_mean, v1_sample]

    def gibbs_hvh(self, h0_sample):
        pre_sigmoid_v1, v1_mean, v1_sample = self.sample_v_given_h(h0_sample)
        h1_mean, h1_sample = self.sample_h_given_v(v1_sample)
        return [pre_sigmoid_v1, v1_mean, v1_sample, h1_mean, h1_sample]

    def get_cost_updates(self, lr, persistent, k):
        (
            [pre_sigmoid_nvs, nv_means, nv_samples, nh_means, nh_samples],
            updates
        ) = theano.scan(
            self.gibbs_hvh,
            outputs_info=[None, None, None, None, persistent],
            n_steps=k,
            name='gibbs_hvh'
        )
        chain_end = nv_samples[-1]
        cost = T.mean(self.free_energy(self.input)) - T.mean(self.free_energy(chain_end))
        gparams = T.grad(cost, self.params, consider_constant=[chain_end])
        for gparam, param in zip(gparams, self.params):
            updates[param] = param - gparam * T.cast(lr, dtype=theano.config.floatX)
        updates[persistent] = nh_samples[-1]
        cross_entropy = T.mean(T.sum(
            self.input * T.log(T.nnet.sigmoid(pre_sigmoid_nvs[-1]))
            + (1 - self.input) * T.log(1 - T.nnet.sigmoid(pre_sigmoid_nvs[-1])), axis=1))
        return cross_entropy, updates


if __name__ == '__main__':
    rng = numpy.random.RandomState(123)
    data = (made_up_digits.load()[0][0] > .5).astype(theano.config.floatX)
    train_set_x = theano.shared(data, borrow=True)
    batch_size = 40
    index = T.lscalar()
    x = T.matrix('x')
    persistent_chain = theano.shared(numpy.zeros((batch_size, 8), dtype=theano.config.floatX), borrow=True)
    rbm = RBM(input=x, n_visible=144, n_hidden=8, numpy_rng=rng)
    cost, updates = rbm.get_cost_updates(lr=0.1, persistent=persistent_chain, k=3)
    train_rbm = theano.function([index], cost, updates=updates,
                                givens={x: train_set_x[index * batch_size: (index + 1) * batch_size]}, name='train_rbm')
    chains = []
    costs = []
    for epoch in range(5):
        costs.append(numpy.mean([train_rbm(i) for i in range(4)]))
        chains.append(persistent_chain.get_value())
        print('Training epoch %d, cost is %f' % (epoch, costs[-1]))
