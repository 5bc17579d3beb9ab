"""AlexNet: five convolutions, three of them pooled with overlap, and a perceptron of three layers on top.

    images          (batch, channels, 224, 224)
    convolution     96 filters of 11 x 11, stride 4, padded by 2    (batch, 96, 55, 55)     + bias, relu
    max pooling     3 x 3, stride 2                                 (batch, 96, 27, 27)
    convolution     256 filters of 5 x 5, padded by 2               (batch, 256, 27, 27)    + bias, relu
    max pooling     3 x 3, stride 2                                 (batch, 256, 13, 13)
    convolution     384 filters of 3 x 3, padded by 1               (batch, 384, 13, 13)    + bias, relu
    convolution     384 filters of 3 x 3, padded by 1               (batch, 384, 13, 13)    + bias, relu
    convolution     256 filters of 3 x 3, padded by 1               (batch, 256, 13, 13)    + bias, relu
    max pooling     3 x 3, stride 2                                 (batch, 256, 6, 6)
    hidden layers   4096 units, relu, twice                         (batch, 4096)
    softmax         one unit a class                                (batch, classes)

After A. Krizhevsky, I. Sutskever and G. Hinton, "ImageNet classification with deep convolutional neural networks"
(2012); not split over two devices, without dropout and local response normalisation.

`AlexnetSmall` has the same layers for images of about 32 x 32: no stride, and fewer filters and units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from pytensor_convnet.conv import conv2d
from pytensor_convnet.geometry import correlation_length, pool_length
from pytensor_convnet.models.base import Classifier, Shape, he_normal
from pytensor_convnet.pool import max_pool_2d


@dataclass(frozen=True)
class Convolution:
    """A convolution layer: how many filters, their side, and whether its maps are pooled."""

    filters: int
    length: int
    padding: int
    pooled: bool
    stride: int = 1


CONVOLUTIONS = (
    Convolution(96, 11, padding=2, pooled=True, stride=4),
    Convolution(256, 5, padding=2, pooled=True),
    Convolution(384, 3, padding=1, pooled=False),
    Convolution(384, 3, padding=1, pooled=False),
    Convolution(256, 3, padding=1, pooled=True),
)
SMALL_CONVOLUTIONS = (
    Convolution(64, 5, padding=2, pooled=True),
    Convolution(128, 5, padding=2, pooled=True),
    Convolution(192, 3, padding=1, pooled=False),
    Convolution(192, 3, padding=1, pooled=False),
    Convolution(128, 3, padding=1, pooled=True),
)
POOL_LENGTH = 3
POOL_STRIDE = 2


class Alexnet(Classifier):
    """The network of the ImageNet competition of 2012.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial parameters.
    image_shape : (int, int, int)
        (channels, rows, columns) of the images: any number of channels, at least 63 rows and 63 columns.
    number_of_classes : int
    normalisation : Normalisation, optional
        Pixel statistics. By default images are used as they are.

    Examples
    --------
    >>> import numpy as np, pytensor.tensor as pt
    >>> shapes = Alexnet.parameter_shapes(image_shape=(3, 224, 224), number_of_classes=1000)
    >>> shapes["conv1_filters"], shapes["hidden1_weights"]
    ((96, 3, 11, 11), (9216, 4096))
    """

    name = "alexnet"
    convolutions: ClassVar[Sequence[Convolution]] = CONVOLUTIONS
    hidden_units: ClassVar[int] = 4096
    least_length: ClassVar[int] = 63

    @classmethod
    def parameter_shapes(cls, image_shape: Shape, number_of_classes: int) -> dict[str, Shape]:
        channels, rows, columns = image_shape
        if channels < 1 or min(rows, columns) < cls.least_length:
            raise ValueError(
                f"image_shape must be (channels, rows, columns) with at least {cls.least_length} rows and columns, "
                f"got {image_shape}"
            )
        shapes: dict[str, Shape] = {}
        for number, layer in enumerate(cls.convolutions, start=1):
            shapes[f"conv{number}_filters"] = (layer.filters, channels, layer.length, layer.length)
            shapes[f"conv{number}_biases"] = (layer.filters,)
            channels, rows, columns = layer.filters, maps_length(rows, layer), maps_length(columns, layer)
        inputs = channels * rows * columns
        hidden = {"hidden1": cls.hidden_units, "hidden2": cls.hidden_units}
        for name, units in (hidden | {"softmax": number_of_classes}).items():
            shapes[f"{name}_weights"] = (inputs, units)
            shapes[f"{name}_biases"] = (units,)
            inputs = units
        return shapes

    @staticmethod
    def initial_value(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
        # Biases break no symmetry, and a softmax of zeros begins without prejudice: every class equally probable.
        if name.endswith("biases") or name == "softmax_weights":
            return np.zeros(shape, np.float32)
        fan_in = shape[0] if len(shape) == 2 else shape[1] * shape[2] * shape[3]
        return he_normal(rng, shape, fan_in)

    def logits(self, images: Variable) -> Variable:
        p, x = self.parameters, images
        for number, layer in enumerate(self.convolutions, start=1):
            x = convolution_layer(x, p[f"conv{number}_filters"], p[f"conv{number}_biases"], layer)
        x = x.flatten(2)
        for name in ("hidden1", "hidden2"):
            x = pt.maximum(x @ p[f"{name}_weights"] + p[f"{name}_biases"], 0)
        return x @ p["softmax_weights"] + p["softmax_biases"]


class AlexnetSmall(Alexnet):
    """AlexNet's layers for small images, such as CIFAR-10's.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial parameters.
    image_shape : (int, int, int)
        (channels, rows, columns) of the images: any number of channels, at least 15 rows and 15 columns.
    number_of_classes : int
    normalisation : Normalisation, optional
        Pixel statistics. By default images are used as they are.

    Examples
    --------
    >>> shapes = AlexnetSmall.parameter_shapes(image_shape=(3, 32, 32), number_of_classes=10)
    >>> shapes["conv1_filters"], shapes["hidden1_weights"]
    ((64, 3, 5, 5), (1152, 512))
    """

    name = "alexnet_small"
    convolutions = SMALL_CONVOLUTIONS
    hidden_units = 512
    least_length = 15


def convolution_layer(images: Variable, filters: Variable, biases: Variable, layer: Convolution) -> Variable:
    """Convolve, keep the maximum of each 3 x 3 pixels if the layer pools, add the biases, rectify.

    Pooling comes first because adding a number and rectifying are nondecreasing: the result is the same, and fewer
    pixels are computed.

    Parameters
    ----------
    images : float32 tensor, (batch, channels, rows, columns)
    filters : float32 tensor, (filters, channels, filter rows, filter columns)
    biases : float32 tensor, (filters,)
    layer : Convolution

    Returns
    -------
    float32 tensor, (batch, filters, rows, columns)
        With so many rows and columns as `maps_length` says.
    """
    maps = conv2d(images, filters, border_mode=layer.padding, subsample=(layer.stride, layer.stride))
    if layer.pooled:
        maps = max_pool_2d(maps, ds=(POOL_LENGTH, POOL_LENGTH), st=(POOL_STRIDE, POOL_STRIDE), ignore_border=True)
    return pt.maximum(maps + biases.dimshuffle("x", 0, "x", "x"), 0)


def maps_length(length: int, layer: Convolution) -> int:
    """How many rows (or columns) a layer makes of ``length``.

    Examples
    --------
    >>> maps_length(224, CONVOLUTIONS[0]), maps_length(13, CONVOLUTIONS[4])
    (27, 6)
    """
    convolved = correlation_length(length, layer.length, layer.stride, layer.padding, layer.padding, 1)
    return pool_length(convolved, POOL_LENGTH, POOL_STRIDE, 0, 0, True) if layer.pooled else convolved
