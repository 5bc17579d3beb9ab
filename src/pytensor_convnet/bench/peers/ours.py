"""pytensor-convnet as its users have it: functions that PyTensor compiled for Numba, of arrays in shared variables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pytensor_convnet import conv2d, ops, pool_2d
from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.nets import NetCase, NetData
from pytensor_convnet.bench.peers.base import ConvData, Operation, Peer, PoolData, limit_pytensor_threads

LAYOUT = "bc01"


class Ours(Peer):
    """This package.

    Parameters
    ----------
    threads : int
    exclude : sequence of str
        Names of PyTensor's rewrites. With any, everything is measured a second time, without these.
    """

    name = "pytensor-convnet"
    package = "pytensor_convnet"

    def __init__(self, threads: int, exclude: Sequence[str] = ()) -> None:
        limit_pytensor_threads(threads)
        complete = pytensor.compile.get_mode("NUMBA")
        self.modes = {LAYOUT: complete}
        if exclude:
            self.modes[f"{LAYOUT} without {', '.join(exclude)}"] = complete.excluding(*exclude)
        self.layouts = tuple(self.modes)

    def conv(self, case: ConvCase, data: ConvData, layout: str) -> Mapping[str, Operation]:
        images, filters, maps = map(_shared, (data.images, data.filters, data.maps))
        output = conv2d(images, filters, border_mode=case.padding, subsample=case.stride, filter_flip=False)
        by_images, by_filters = pytensor.grad(None, [images, filters], known_grads={output: maps})
        return {
            "forward": self._operation(layout, output),
            "input_grad": self._operation(layout, by_images),
            "filter_grad": self._operation(layout, by_filters),
        }

    def pool(self, case: PoolCase, data: PoolData, layout: str) -> Mapping[str, Operation]:
        images, maps = _shared(data.images), _shared(data.maps)
        windows = case.window, case.stride, case.padding
        output = pool_2d(images, case.window, True, case.stride, case.padding, case.mode)
        if case.mode == "max":
            _, winners = ops.MaxPool2d(ignore_border=True)(images, *windows)
            found = _shared(pytensor.function([], winners, mode=self.modes[layout])())
            gradient = ops.MaxPool2dGrad()(found, maps, case.rows, case.columns, *windows)
        else:
            gradient = ops.AveragePool2dGrad(case.mode)(maps, case.rows, case.columns, *windows)
        return {"forward": self._operation(layout, output), "backward": self._operation(layout, gradient)}

    def net(self, case: NetCase, data: NetData, layout: str) -> Mapping[str, Operation]:
        loss, updates = training_step(case, data.parameters, _shared(data.images), _shared(data.labels))
        return {"step": self._operation(layout, loss, updates)}

    def _operation(self, layout: str, output: Any, updates: Mapping[Any, Any] | None = None) -> Operation:
        function = pytensor.function([], pytensor.Out(output, borrow=True), updates=updates, mode=self.modes[layout])
        return Operation(function)


def training_step(case: NetCase, initial: Sequence[np.ndarray], images: Any, labels: Any) -> tuple[Any, dict[Any, Any]]:
    """The symbolic loss of a minibatch, and the updates of the network's parameters, which start from ``initial``."""
    from pytensor_convnet.learning import momentum_updates, negative_log_likelihood
    from pytensor_convnet.models import MODELS

    model = MODELS[case.model](np.random.default_rng(0), case.image_shape, case.classes)
    model.set_values(
        # The network convolves, the others correlate: with turned filters that is the same.
        {
            name: value[:, :, ::-1, ::-1].copy() if value.ndim == 4 else value
            for name, value in zip(model.parameters, initial, strict=True)
        }
    )
    log_probabilities = pt.special.log_softmax(model.logits(images), axis=1)
    loss = negative_log_likelihood(log_probabilities, labels).mean(dtype="float32")
    gradients = pytensor.grad(loss, list(model.parameters.values()))
    rate, momentum = np.float32(case.learning_rate), np.float32(case.momentum)
    if momentum:
        by_name = dict(zip(model.parameters, gradients))
        return loss, momentum_updates(model.parameters, by_name, pt.constant(rate), pt.constant(momentum))
    return loss, {p: p - rate * gradient for p, gradient in zip(model.parameters.values(), gradients)}


def unknown_rewrites(names: Sequence[str]) -> list[str]:
    """Those of the names that no rewrite of PyTensor, and no group of them, bears.

    Examples
    --------
    >>> unknown_rewrites(["fusion", "confusion"])
    ['confusion']
    """
    known: set[str] = set()
    databases: list[Any] = [pytensor.compile.mode.optdb]
    while databases:
        database = databases.pop()
        known |= set(database.__db__)
        members = {member for rewrites in database.__db__.values() for member in rewrites}
        databases += [member for member in members if hasattr(member, "__db__")]
    return [name for name in names if name not in known]


def _shared(array: np.ndarray) -> Any:
    """The array itself in a shared variable, of known shape."""
    return pytensor.shared(array, shape=array.shape, borrow=True)
