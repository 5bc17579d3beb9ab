"""The networks of the suite: what their layers are, for the implementations to build, and what they learn from.

Every implementation starts from the same parameters, learns from the same images and takes the same steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from pytensor_convnet.geometry import correlation_length, pool_length


@dataclass(frozen=True)
class Conv:
    """A convolution layer with square filters and a bias for each."""

    filters: int
    size: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Pool:
    """A pooling layer with square windows; padding counts in averages."""

    size: int
    stride: int
    padding: int = 0
    mode: str = "max"


@dataclass(frozen=True)
class Dense:
    """A fully connected layer with biases; images become vectors channel by channel."""

    units: int


Layer: TypeAlias = Conv | Pool | Dense | str
"""A layer; a nonlinearity is its name, 'relu' or 'tanh'."""


@dataclass(frozen=True)
class NetCase:
    """A network, its minibatch, and how it learns: the last layer's units go to a softmax.

    Its name is that of a model of this package, unless ``of_model`` is.
    """

    name: str
    batch: int
    image_shape: tuple[int, int, int]
    layers: Sequence[Layer]
    momentum: float = 0.0
    learning_rate: float = 0.001
    of_model: str | None = None

    operations = ("step",)

    @property
    def model(self) -> str:
        return self.of_model or self.name

    @property
    def classes(self) -> int:
        last = self.layers[-1]
        assert isinstance(last, Dense)
        return last.units

    def parameter_shapes(self) -> list[tuple[int, ...]]:
        """Of each layer with parameters: filters and biases, or weights (inputs, units) and biases."""
        shapes: list[tuple[int, ...]] = []
        for layer, (channels, rows, columns) in zip(self.layers, self.input_shapes()):
            if isinstance(layer, Conv):
                shapes += [(layer.filters, channels, layer.size, layer.size), (layer.filters,)]
            elif isinstance(layer, Dense):
                shapes += [(channels * rows * columns, layer.units), (layer.units,)]
        return shapes

    def input_shapes(self) -> list[tuple[int, int, int]]:
        """(channels, rows, columns) of what each layer is given; a vector is (units, 1, 1)."""
        shapes = [self.image_shape]
        for layer in self.layers:
            channels, rows, columns = shapes[-1]
            if isinstance(layer, Conv):
                p, size, s = layer.padding, layer.size, layer.stride
                shape = layer.filters, *(correlation_length(n, size, s, p, p, 1) for n in (rows, columns))
            elif isinstance(layer, Pool):
                p, size, s = layer.padding, layer.size, layer.stride
                shape = channels, *(pool_length(n, size, s, p, p, True) for n in (rows, columns))
            elif isinstance(layer, Dense):
                shape = layer.units, 1, 1
            else:
                shape = channels, rows, columns
            shapes.append(shape)
        return shapes

    def __str__(self) -> str:
        return f"{self.batch}x{'x'.join(map(str, self.image_shape))}"


@dataclass(frozen=True)
class NetData:
    """Random labelled images and random initial parameters, these in the order of `NetCase.parameter_shapes`."""

    images: np.ndarray
    labels: np.ndarray
    parameters: list[np.ndarray]

    @classmethod
    def of(cls, case: NetCase, number: int | None = None) -> "NetData":
        """So many images, by default one minibatch."""
        number = case.batch if number is None else number
        rng = np.random.default_rng(0)
        images = rng.standard_normal((number, *case.image_shape), dtype=np.float32)
        labels = rng.integers(0, case.classes, number).astype(np.int32)
        return cls(images, labels, [_initial_value(rng, shape) for shape in case.parameter_shapes()])


def _initial_value(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that keep activations at their size; biases of zero."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    summed = shape[0] if len(shape) == 2 else shape[1] * shape[2] * shape[3]
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / summed))


def channels_last_weights(weights: np.ndarray, input_shape: tuple[int, int, int]) -> np.ndarray:
    """The weights of a `Dense` layer for images that became vectors with the channel as the last axis.

    Examples
    --------
    >>> weights = np.arange(6)[:, None]  # two channels of one row and three columns, one unit
    >>> channels_last_weights(weights, (2, 1, 3))[:, 0]
    array([0, 3, 1, 4, 2, 5])
    """
    return weights.reshape(*input_shape, -1).transpose(1, 2, 0, 3).reshape(weights.shape)


NET = {
    case.name: case
    for case in (
        NetCase(
            "lenet",
            500,
            (1, 28, 28),
            (
                *(Conv(20, 5), Pool(2, 2), "tanh"),
                *(Conv(50, 5), Pool(2, 2), "tanh"),
                *(Dense(500), "tanh", Dense(10)),
            ),
        ),
        NetCase(
            "cuda_convnet",
            128,
            (3, 32, 32),
            (
                *(Conv(32, 5, padding=2), Pool(3, 2, 1), "relu"),
                *(Conv(32, 5, padding=2), "relu", Pool(3, 2, 1, "average")),
                *(Conv(64, 5, padding=2), "relu", Pool(3, 2, 1, "average")),
                Dense(10),
            ),
            momentum=0.9,
        ),
        NetCase(
            "alexnet",
            16,
            (3, 224, 224),
            (
                *(Conv(96, 11, stride=4, padding=2), "relu", Pool(3, 2)),
                *(Conv(256, 5, padding=2), "relu", Pool(3, 2)),
                *(Conv(384, 3, padding=1), "relu"),
                *(Conv(384, 3, padding=1), "relu"),
                *(Conv(256, 3, padding=1), "relu", Pool(3, 2)),
                *(Dense(4096), "relu", Dense(4096), "relu", Dense(1000)),
            ),
            momentum=0.9,
            learning_rate=0.0001,
        ),
    )
}
"""The networks as a CPU runs them."""

GPU_NET = {
    case.name: case
    for case in (
        NET["lenet"],
        NET["cuda_convnet"],
        replace(NET["cuda_convnet"], name="cuda_convnet_b1024", batch=1024, of_model="cuda_convnet"),
        replace(NET["alexnet"], batch=128),
    )
}
"""The networks as a GPU runs them."""

NET_PRECISIONS = {"medium": "float32", "bf16": "bfloat16"}
"""The precisions of networks on a GPU, and what layers compute in. Parameters, images and losses are always float32."""
