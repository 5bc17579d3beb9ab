"""JAX on the CPU: XLA, in bc01 and in its users' layout, channels last."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.nets import Conv, Dense, NetCase, NetData, Pool, channels_last_weights
from pytensor_convnet.bench.peers.base import ConvData, Operation, Peer, PoolData


class Jax(Peer):
    """`jax.lax` convolutions and windows, jitted, differentiated by JAX."""

    name = "jax"
    package = "jax"
    layouts = ("bc01", "channels_last")

    def __init__(self, threads: int) -> None:
        os.environ["NPROC"] = str(threads)  # XLA makes so many threads, once, when it is first used
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax  # noqa: F401

    def conv(self, case: ConvCase, data: ConvData, layout: str) -> Mapping[str, Operation]:
        import jax

        images, maps = _images(data.images, layout), _images(data.maps, layout)
        filters = _filters(data.filters, layout)
        forward = jax.jit(partial(_correlate, stride=case.stride, padding=case.padding, layout=layout))
        input_grad = jax.jit(lambda x, w, g: jax.vjp(lambda x: forward(x, w), x)[1](g)[0])
        filter_grad = jax.jit(lambda x, w, g: jax.vjp(lambda w: forward(x, w), w)[1](g)[0])
        images_back, filters_back = partial(_images_back, layout=layout), partial(_filters_back, layout=layout)
        return {
            "forward": Operation(lambda: forward(images, filters).block_until_ready(), images_back),
            "input_grad": Operation(lambda: input_grad(images, filters, maps).block_until_ready(), images_back),
            "filter_grad": Operation(lambda: filter_grad(images, filters, maps).block_until_ready(), filters_back),
        }

    def pool(self, case: PoolCase, data: PoolData, layout: str) -> Mapping[str, Operation]:
        import jax

        images, maps = _images(data.images, layout), _images(data.maps, layout)
        forward = jax.jit(
            partial(_pool, window=case.window, stride=case.stride, padding=case.padding, mode=case.mode, layout=layout)
        )
        # What the forward pass found is in the residuals that `gradient`, itself a tree of arrays, holds.
        _, gradient = jax.jit(lambda x: jax.vjp(forward, x))(images)
        backward = jax.jit(lambda gradient, g: gradient(g)[0])
        back = partial(_images_back, layout=layout)
        return {
            "forward": Operation(lambda: forward(images).block_until_ready(), back),
            "backward": Operation(lambda: backward(gradient, maps).block_until_ready(), back),
        }

    def net(self, case: NetCase, data: NetData, layout: str) -> Mapping[str, Operation]:
        import jax

        images, labels = labelled_images(data, layout)
        state = initial_state(case, data.parameters, layout)
        learn = jax.jit(training_step(case, layout), donate_argnums=0)

        def step():
            nonlocal state
            state, loss = jax.block_until_ready(learn(state, images, labels))
            return float(loss)

        return {"step": Operation(step)}


def labelled_images(data: NetData, layout: str) -> tuple[Any, Any]:
    """The images of a network and their labels in JAX's arrays."""
    from jax import numpy as jnp

    return _images(data.images, layout), jnp.asarray(data.labels)


def initial_state(case: NetCase, initial: Sequence[np.ndarray], layout: str) -> Any:
    """What a `training_step` is given and gives: parameters, and velocities where the case has momentum."""
    from jax import numpy as jnp

    parameters = list(_net_parameters(case, initial, layout))
    return parameters, [jnp.zeros_like(parameter) for parameter in parameters] if case.momentum else None


def training_step(case: NetCase, layout: str, dtype: str = "float32") -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """A step of training as a function of (state, images, labels) for `jax.jit`: the new state and the loss before.

    Layers compute in ``dtype``; parameters, scores and the loss are float32.
    """
    import jax
    from jax import numpy as jnp

    def loss_of(parameters, images, labels):
        parameters, images = jax.tree.map(lambda array: array.astype(dtype), (parameters, images))
        log_probabilities = jax.nn.log_softmax(_logits(case, parameters, images, layout).astype("float32"))
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()

    def step(state, images, labels):
        parameters, velocities = state
        loss, gradients = jax.value_and_grad(loss_of)(parameters, images, labels)
        moves = [-case.learning_rate * gradient for gradient in gradients]
        if case.momentum:
            velocities = moves = [case.momentum * v + move for v, move in zip(velocities, moves)]
        return ([p + move for p, move in zip(parameters, moves)], velocities), loss

    return step


def _images(array: np.ndarray, layout: str) -> Any:
    """Images or maps as JAX's own array."""
    from jax import numpy as jnp

    return jnp.array(array if layout == "bc01" else array.transpose(0, 2, 3, 1))


def _filters(array: np.ndarray, layout: str) -> Any:
    from jax import numpy as jnp

    return jnp.array(array if layout == "bc01" else array.transpose(2, 3, 1, 0))


def _images_back(array: Any, layout: str) -> np.ndarray:
    return np.asarray(array) if layout == "bc01" else np.asarray(array).transpose(0, 3, 1, 2)


def _filters_back(array: Any, layout: str) -> np.ndarray:
    return np.asarray(array) if layout == "bc01" else np.asarray(array).transpose(3, 2, 0, 1)


def _correlate(images: Any, filters: Any, stride: Sequence[int], padding: Any, layout: str) -> Any:
    import jax

    axes = ("NCHW", "OIHW", "NCHW") if layout == "bc01" else ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, filters, stride, padding, dimension_numbers=axes)


def _pool(images: Any, window: Any, stride: Any, padding: Any, mode: str, layout: str) -> Any:
    import jax

    def all_axes(pair, other):
        return (other, other, *pair) if layout == "bc01" else (other, *pair, other)

    windows = all_axes(window, 1), all_axes(stride, 1), all_axes(padding, (0, 0))
    if mode == "max":
        return jax.lax.reduce_window(images, -np.inf, jax.lax.max, *windows)
    return jax.lax.reduce_window(images, 0.0, jax.lax.add, *windows) / (window[0] * window[1])


def _net_parameters(case: NetCase, initial: Sequence[np.ndarray], layout: str) -> Any:
    """The initial parameters in JAX's arrays, weights and biases by turns."""
    from jax import numpy as jnp

    values = iter(initial)
    for layer, input_shape in zip(case.layers, case.input_shapes()):
        if isinstance(layer, Conv):
            yield _filters(next(values), layout)
            yield jnp.array(next(values))
        elif isinstance(layer, Dense):
            weights = next(values)
            yield jnp.array(weights if layout == "bc01" else channels_last_weights(weights, input_shape))
            yield jnp.array(next(values))


def _logits(case: NetCase, parameters: Sequence[Any], images: Any, layout: str) -> Any:
    """The network's scores of images."""
    import jax
    from jax import numpy as jnp

    values, x = iter(parameters), images
    for layer in case.layers:
        if isinstance(layer, Conv):
            sides = [(layer.padding, layer.padding)] * 2
            x = _correlate(x, next(values), (layer.stride, layer.stride), sides, layout)
            biases = next(values)
            x = x + (biases[:, None, None] if layout == "bc01" else biases)
        elif isinstance(layer, Pool):
            sides = [(layer.padding, layer.padding)] * 2
            x = _pool(x, (layer.size, layer.size), (layer.stride, layer.stride), sides, layer.mode, layout)
        elif isinstance(layer, Dense):
            x = x.reshape(len(x), -1) @ next(values) + next(values)
        else:
            x = {"relu": jax.nn.relu, "tanh": jnp.tanh}[layer](x)
    return x
