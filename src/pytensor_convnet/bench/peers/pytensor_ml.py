"""pytensor-ml on PyTensor's Numba backend, in its layout, channels last."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.nets import Conv, Dense, NetCase, NetData, Pool, channels_last_weights
from pytensor_convnet.bench.peers.base import ConvData, Operation, Peer, PoolData, limit_pytensor_threads


class PytensorMl(Peer):
    """Networks of pytensor-ml's `Conv2D`, `MaxPool2D` and `AvgPool2D`. Compiling a step takes it minutes."""

    name = "pytensor-ml"
    package = "pytensor_ml"
    suites = ("net",)
    layouts = ("channels_last",)

    def __init__(self, threads: int) -> None:
        import pytensor_ml  # noqa: F401

        limit_pytensor_threads(threads)

    def conv(self, case: ConvCase, data: ConvData, layout: str) -> Mapping[str, Operation]:
        raise NotImplementedError("pytensor-ml is measured in networks")

    def pool(self, case: PoolCase, data: PoolData, layout: str) -> Mapping[str, Operation]:
        raise NotImplementedError("pytensor-ml is measured in networks")

    def net(self, case: NetCase, data: NetData, layout: str) -> Mapping[str, Operation]:
        import pytensor
        import pytensor.tensor as pt

        from pytensor_convnet.learning import momentum_updates, negative_log_likelihood

        with pytensor.config.change_flags(floatX="float32"):  # its layers make parameters of this type
            images = pytensor.shared(np.ascontiguousarray(data.images.transpose(0, 2, 3, 1)))
            labels = pytensor.shared(data.labels)
            symbolic = pt.tensor("images", shape=images.get_value(borrow=True).shape, dtype="float32")
            logits, parameters = _network(case, data, symbolic)
            loss = negative_log_likelihood(pt.special.log_softmax(logits, axis=1), labels).mean(dtype="float32")
            gradients = pytensor.grad(loss, list(parameters.values()))
            rate, momentum = np.float32(case.learning_rate), np.float32(case.momentum)
            if momentum:
                by_name = dict(zip(parameters, gradients))
                updates = momentum_updates(parameters, by_name, pt.constant(rate), pt.constant(momentum))
            else:
                updates = {p: p - rate * gradient for p, gradient in zip(parameters.values(), gradients)}
            step = pytensor.function([], loss, updates=updates, givens={symbolic: images}, mode="NUMBA")
        return {"step": Operation(step)}


def _network(case: NetCase, data: NetData, images: Any) -> tuple[Any, dict[str, Any]]:
    """Scores, and all parameters by name."""
    import pytensor
    import pytensor.tensor as pt
    from pytensor_ml import layers

    x, values = images, iter(data.parameters)
    parameters: dict[str, Any] = {}
    for number, (layer, input_shape) in enumerate(zip(case.layers, case.input_shapes())):
        if isinstance(layer, Conv):
            conv = layers.Conv2D(
                f"conv{number}",
                in_channels=input_shape[0],
                out_channels=layer.filters,
                kernel_size=layer.size,
                stride=layer.stride,
                padding=layer.padding,
            )
            conv.W.set_value(np.ascontiguousarray(next(values).transpose(2, 3, 1, 0)))
            conv.b.set_value(next(values))
            parameters |= {f"filters{number}": conv.W, f"biases{number}": conv.b}
            x = conv(x)
        elif isinstance(layer, Pool):
            kind = layers.MaxPool2D if layer.mode == "max" else layers.AvgPool2D
            x = kind(f"pool{number}", kernel_size=layer.size, stride=layer.stride, padding=layer.padding)(x)
        elif isinstance(layer, Dense):
            weights = pytensor.shared(np.ascontiguousarray(channels_last_weights(next(values), input_shape)))
            biases = pytensor.shared(next(values))
            parameters |= {f"weights{number}": weights, f"biases{number}": biases}
            x = x.reshape((case.batch, -1)) @ weights + biases
        else:
            x = {"relu": lambda x: pt.maximum(x, 0), "tanh": pt.tanh}[layer](x)
    return x, parameters
