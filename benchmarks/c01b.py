"""What c01b costs beside bc01: one network in either layout, trained on the same images.

    python benchmarks/c01b.py                      # cuda-convnet's network for CIFAR-10, batch 128
    python benchmarks/c01b.py --batch 1024 --threads 2
    python benchmarks/c01b.py --batch 1024 --mode CUDA

The first network is written with `conv2d` and `max_pool_2d`, its twin with `FilterActs` and `MaxPool`; each is given
images and filters in its own layout, contiguous. Printed are the time of a training step and of its forward pass, and
how far the losses and filters of the two are apart after ten steps.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.special import log_softmax

from pytensor_convnet import conv2d, max_pool_2d
from pytensor_convnet.bench.measure import interleaved_medians
from pytensor_convnet.cuda_convnet import FilterActs, MaxPool

FILTERS, LENGTH = (32, 32, 64), 5
SHAPES = [(count, channels, LENGTH, LENGTH) for count, channels in zip(FILTERS, (3, *FILTERS))]
LEARNING_RATE, MOMENTUM = np.float32(0.01), np.float32(0.9)


@dataclass(frozen=True)
class Layout:
    """How a program in one layout is written."""

    name: str
    order: Sequence[int]
    """The axes of bc01 images, or filters, in this layout."""
    convolve: Callable[[Any, Any], Any]
    pool: Callable[[Any], Any]
    bias_axes: Sequence[Any]


LAYOUTS = (
    Layout(
        "bc01",
        (0, 1, 2, 3),
        lambda images, filters: conv2d(images, filters, border_mode=2, filter_flip=False),
        lambda maps: max_pool_2d(maps, ds=3, st=2, ignore_border=False),
        ("x", 0, "x", "x"),
    ),
    Layout("c01b", (1, 2, 3, 0), FilterActs(pad=2), MaxPool(ds=3, stride=2), (0, "x", "x", "x")),
)


class Network:
    """Three convolutions, each with biases, a rectifier and an overlapping max pooling, and a softmax.

    Parameters
    ----------
    layout : Layout
    batch : int
    mode : str or Mode, optional
        Of PyTensor.
    """

    def __init__(self, layout: Layout, batch: int, mode: Any = None):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((batch, 3, 32, 32), dtype=np.float32)
        labels = rng.integers(0, 10, batch).astype(np.int32)
        filters = [rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05) for shape in SHAPES]
        weights = rng.standard_normal((FILTERS[-1] * 4 * 4, 10), dtype=np.float32) * np.float32(0.05)
        self.layout = layout
        self.images = pytensor.shared(np.ascontiguousarray(images.transpose(layout.order)), borrow=True)
        self.filters = [pytensor.shared(np.ascontiguousarray(bank.transpose(layout.order))) for bank in filters]
        self.biases = [pytensor.shared(np.zeros(count, np.float32)) for count in FILTERS]
        self.weights = pytensor.shared(weights)
        loss = -log_softmax(self._logits(), axis=1)[pt.arange(batch), labels].mean()
        parameters = [*self.filters, *self.biases, self.weights]
        self.forward = pytensor.function([], loss, mode=mode)
        self.step = pytensor.function([], loss, updates=_momentum(loss, parameters), mode=mode)

    def _logits(self) -> Any:
        x = self.images
        for filters, biases in zip(self.filters, self.biases, strict=True):
            maps = self.layout.convolve(x, filters) + biases.dimshuffle(*self.layout.bias_axes)
            x = self.layout.pool(pt.maximum(maps, 0))
        return self._bc01(x).flatten(2) @ self.weights

    def _bc01(self, images: Any) -> Any:
        return images.dimshuffle(*np.argsort(self.layout.order).tolist())

    def filter_values(self) -> list[np.ndarray]:
        """The filters, as views in bc01."""
        return [bank.get_value().transpose(np.argsort(self.layout.order)) for bank in self.filters]


def _momentum(loss: Any, parameters: Sequence[Any]) -> list[tuple[Any, Any]]:
    updates = []
    for parameter, gradient in zip(parameters, pytensor.grad(loss, parameters), strict=True):
        velocity = pytensor.shared(np.zeros_like(parameter.get_value()))
        new_velocity = MOMENTUM * velocity - LEARNING_RATE * gradient
        updates += [(velocity, new_velocity), (parameter, parameter + new_velocity)]
    return updates


def differences(networks: Sequence[Network], steps: int = 10) -> tuple[float, float]:
    """The greatest relative difference of losses over some steps, and of filters after them."""
    losses = np.array([[float(network.step()) for _ in range(steps)] for network in networks])
    apart = [abs(a - b).max() / abs(a).max() for a, b in zip(*(network.filter_values() for network in networks))]
    return float((abs(losses[0] - losses[1]) / losses[0]).max()), float(max(apart))


def _read(function: Callable[[], Any]) -> float:
    """The loss, read: a GPU has then computed all of the call."""
    return float(function())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=None, help="all by default")
    parser.add_argument("--mode", help="a mode of PyTensor; CUDA for a GPU")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long to spend on each figure")
    options = parser.parse_args()
    if options.threads:
        from numba import set_num_threads

        set_num_threads(options.threads)
    networks = [Network(layout, options.batch, options.mode) for layout in LAYOUTS]
    losses, filters = differences(networks)
    print(f"after 10 steps of batch {options.batch}: losses {losses:.1e}, filters {filters:.1e} apart")
    for operation in ("step", "forward"):
        calls = {network.layout.name: partial(_read, getattr(network, operation)) for network in networks}
        medians = interleaved_medians(calls, options.seconds)
        bc01, c01b = (1e3 * medians[layout.name] for layout in LAYOUTS)
        print(f"{operation}: bc01 {bc01:.2f} ms, c01b {c01b:.2f} ms, ratio {c01b / bc01:.3f}")


if __name__ == "__main__":
    main()
