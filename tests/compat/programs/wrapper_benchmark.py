"""Times forward and backward passes of single layers, as the public layer benchmark of 2014 did for pylearn2."""
import sys
import time

import numpy as np
import theano
import theano.tensor as T

if not theano.config.device.startswith('gpu'):
    import theano.sandbox.cuda
    theano.sandbox.cuda.use('gpu')
try:
    import theano.misc.pycuda_init
    import pycuda.driver
except ImportError:
    print("Note: pycuda is not available, times are the clock's")
try:
    import theano.sandbox.cuda.dnn
    if not theano.sandbox.cuda.dnn.dnn_available():
        del theano.sandbox.cuda.dnn
        raise ImportError
except (ImportError, NameError):
    print("Note: cuDNN is not available")
try:
    from pylearn2.sandbox.cuda_convnet.filter_acts import FilterActs
    from theano.sandbox.cuda.basic_ops import gpu_contiguous
except ImportError:
    print("Note: pylearn2 is not available")
    FilterActs = None

number = 2  # nb of steps in loop to average over
repeat = 1  # nb of trials to pick the minimum of

# (batch, channels, rows, columns), filters, filter rows and columns, stride
runs = [
    dict(ni=3, no=16, kw=5, kh=5, iw=16, ih=16, bs=8, dw=1, dh=1),
    dict(ni=16, no=8, kw=3, kh=3, iw=9, ih=9, bs=8, dw=1, dh=1),
    dict(ni=5, no=7, kw=3, kh=3, iw=9, ih=9, bs=8, dw=2, dh=2),
]
if len(sys.argv) > 1:
    runs = runs[:int(sys.argv[1])]


def time_run(fn):
    times = []
    fn()  # warm-up call, not timed
    for _ in range(repeat):
        theano.sandbox.cuda.synchronize()
        start = time.time()
        for _ in range(number):
            fn()
        theano.sandbox.cuda.synchronize()
        times.append((time.time() - start) / number)
    return min(times)


def print_graph(fn):
    theano.printing.debugprint(fn.maker.fgraph.outputs, file=sys.stderr)


def benchmark_three_ways(name, sharedX, sharedY, sharedW, X, Y, gW, gX, mode=None):
    givens = [(X, sharedX)] if X is not sharedX else []
    # benchmark fprop
    fprop = theano.function([], [], givens=givens, updates=[(sharedY, Y)],
                            mode=mode, name=name + " fprop")
    tm = time_run(fprop)
    del fprop
    print(f'{name:<50} fprop           : {tm:.6f} s')
    # benchmark bprop wrt input, filters
    bprop_inputs = theano.function([], [], givens=givens, updates=[(sharedX, gX)], mode=mode, name=name + " bprop inputs")
    print(f'{name:<50} bprop inputs    : {time_run(bprop_inputs):.6f} s')
    bprop_weights = theano.function([], [], givens=givens, updates=[(sharedW, gW)], mode=mode, name=name + " bprop weights")
    print(f'{name:<50} bprop weights   : {time_run(bprop_weights):.6f} s')


results = {}
for run in runs:
    bs, ni, no = run['bs'], run['ni'], run['no']
    ih, iw, kh, kw, dh, dw = run['ih'], run['iw'], run['kh'], run['kw'], run['dh'], run['dw']
    print(f'CONFIG: input = {ni} x {iw} x {ih} * ker = {ni} x {no} x {kw} x {kh} ( bs = {bs}, stride = {dw})')
    rng = np.random.RandomState(42)
    input_value = rng.randn(bs, ni, ih, iw).astype('float32')
    filter_value = rng.randn(no, ni, kh, kw).astype('float32')
    output_shape = (bs, no, (ih - kh) // dh + 1, (iw - kw) // dw + 1)

    # Theano's own convolution, bc01
    mode = theano.compile.get_default_mode().excluding('conv_gemm', 'conv_dnn')
    sharedX = theano.shared(input_value.copy(), name='sharedX')
    sharedY = theano.shared(np.zeros(output_shape, dtype='float32'), name='sharedY')
    sharedW = theano.shared(filter_value.copy(), name='sharedW')
    Y = T.nnet.conv.conv2d(sharedX, sharedW, image_shape=(bs, ni, ih, iw), filter_shape=(no, ni, kh, kw),
                           subsample=(dh, dw))
    gW = theano.grad(None, wrt=sharedW, known_grads={Y: sharedY})
    gX = theano.grad(None, wrt=sharedX, known_grads={Y: sharedY})
    benchmark_three_ways('theano.tensor.nnet.conv.conv2d', sharedX, sharedY, sharedW, sharedX, Y, gW, gX, mode)
    bc01 = [x.get_value() for x in (sharedX, sharedY, sharedW)]

    # the wrappers of Caffe's and NVIDIA's kernels, by hand
    X = T.tensor4('X')
    for name, Y in [
        ('(manual) GpuCorrMM', theano.sandbox.cuda.blas.GpuCorrMM(subsample=(dh, dw))(gpu_contiguous(X), gpu_contiguous(sharedW))),
        ('(manual) GpuDnnConv', theano.sandbox.cuda.dnn.dnn_conv(X, sharedW, 'valid', subsample=(dh, dw), conv_mode='cross')),
    ]:
        gW = theano.grad(None, wrt=sharedW, known_grads={Y: sharedY})
        gX = theano.grad(None, wrt=X, known_grads={Y: sharedY})
        benchmark_three_ways(name, sharedX, sharedY, sharedW, X, Y, gW, gX, theano.compile.get_default_mode().including('conv_meta'))
    del sharedX, sharedY, sharedW

    # pylearn2 wrapper for cuda-convnet, c01b, correlation; no padding of channels or filters needed
    sharedX = theano.shared(np.ascontiguousarray(input_value.transpose(1, 2, 3, 0)), name='sharedX')
    sharedY = theano.shared(np.zeros([output_shape[i] for i in (1, 2, 3, 0)], dtype='float32'), name='sharedY')
    sharedW = theano.shared(np.ascontiguousarray(filter_value[:, :, ::-1, ::-1].transpose(1, 2, 3, 0)), name='sharedW')
    Y = FilterActs(stride=dw, partial_sum=1)(gpu_contiguous(sharedX), gpu_contiguous(sharedW))
    gW = theano.grad(None, wrt=sharedW, known_grads={Y: sharedY})
    gX = theano.grad(None, wrt=sharedX, known_grads={Y: sharedY})
    benchmark_three_ways('pylearn2.sandbox.cuda_convnet(partial_sum=1)', sharedX, sharedY, sharedW, sharedX, Y, gW, gX)
    c01b = [x.get_value() for x in (sharedX, sharedY, sharedW)]
    results[ni, no] = bc01, c01b
