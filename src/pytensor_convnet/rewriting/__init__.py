"""Graph rewrites: the same values by less work. PyTensor applies them when it compiles a function.

Each is registered under a name of its own, and all under the tag 'convnet': ``mode.excluding("fold_filter_flip")``
leaves out one, ``mode.excluding("convnet")`` all. ``docs/rewrites.md`` shows each before and after.

    layouts           elementwise Ops and reductions between shuffles of axes are done in the Ops' own layout
    filter_flips      filters turned by half a turn are turned by the Op that reads them
    max_pools         nondecreasing functions are applied after max pooling, to fewer pixels
    max_pool_grads    what multiplies or sums the scattered gradient does so before it is scattered
    winners           winners that nobody reads are not computed
    fusion            correlation and max pooling become one step (Numba backend)
    rectified_pools   bias and rectifier, with average pooling or without, become one step (Numba backend, mode CUDA)
    activations       tanh of maps is computed in vectors, and its gradient with that of biases (Numba backend)
    products          matrix products neither copy transposes nor ask for fresh memory (Numba backend)
    all_means         means over processes are taken together, in one order (every mode)
    lengths           arithmetic with lengths is done before shapes depend on it (JAX and MLX backends)
    inlining          graphs that are one Op are taken apart (mode CUDA)
    dtypes            sums and ranges have the dtypes that PyTensor says they have (JAX and MLX backends)
"""

from pytensor_convnet.rewriting import (  # noqa: F401
    activations,
    all_means,
    dtypes,
    filter_flips,
    fusion,
    inlining,
    layouts,
    lengths,
    max_pool_grads,
    max_pools,
    products,
    rectified_pools,
    winners,
)
