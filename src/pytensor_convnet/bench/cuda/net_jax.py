"""JAX as a peer in training networks on a GPU: one jitted function a step, its state donated."""

import os

import numpy as np

from pytensor_convnet.bench.cuda.net import Implementation, Steps


class Jax(Implementation):
    """XLA, with its own choice of precision for float32, which is tf32 on GPUs that have it."""

    name = "jax"
    layouts = ("channels_last", "bc01")

    def prepare(self, device):
        # XLA would take three quarters of the GPU's memory at its start, but it is not alone.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax

        platform = jax.default_backend()
        if platform != {"cuda": "gpu"}.get(device, device):
            raise RuntimeError(f"JAX computes on its platform {platform}: pip install 'jax[cuda12]'")

    def steps(self, training, layout):
        import jax

        from pytensor_convnet.bench.peers.jax import initial_state, labelled_images, training_step

        case, data = training.case, training.data
        one_step = training_step(case, layout, training.dtype)

        def from_data_set(state, images, labels, first):
            here = (jax.lax.dynamic_slice_in_dim(array, first, case.batch) for array in (images, labels))
            return one_step(state, *here)

        images, labels = labelled_images(data, layout)
        state = initial_state(case, data.parameters, layout)
        learn = jax.jit(from_data_set, donate_argnums=0)

        def step(number):
            nonlocal state
            state, loss = learn(state, images, labels, np.int32(number * case.batch))
            return loss

        return Steps(step, lambda: jax.block_until_ready(state))
