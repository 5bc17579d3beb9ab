"""What all networks share: parameters held by name, images made comparable, scores turned into probabilities."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.special import log_softmax

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The mean and the standard deviation of each channel over the images that a network learns from.

    Attributes
    ----------
    mean, deviation : float32 array, (channels,)

    Examples
    --------
    >>> import numpy as np
    >>> images = np.array([[[[0.0, 1.0]]], [[[1.0, 0.0]]]], "float32")
    >>> Normalisation.of(images)
    Normalisation(mean=array([0.5], dtype=float32), deviation=array([0.5], dtype=float32))
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> "Normalisation":
        """The statistics of ``images``, (batch, channels, rows, columns)."""
        # Float64 sums: a data set has more pixels than float32 can count.
        mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
        deviation = images.std(axis=(0, 2, 3), dtype=np.float64)
        # A channel that is the same everywhere has nothing to scale.
        deviation[deviation == 0] = 1
        return cls(mean.astype(np.float32), deviation.astype(np.float32))

    @classmethod
    def identity(cls, channels: int) -> "Normalisation":
        """The statistics that leave images as they are."""
        return cls(np.zeros(channels, np.float32), np.ones(channels, np.float32))


class Classifier(ABC):
    """A network from images to class probabilities, with its parameters in shared variables.

    A subclass names itself, says what parameters it has (`parameter_shapes`), what they start from
    (`initial_value`) and how they make scores of images (`logits`).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the initial parameters.
    image_shape : (int, int, int)
        (channels, rows, columns) of the images.
    number_of_classes : int
    normalisation : Normalisation, optional
        Pixel statistics. By default images are used as they are.

    Attributes
    ----------
    parameters : dict of str to shared variable
        What training changes; float32, whatever ``pytensor.config.floatX`` is.
    """

    name: ClassVar[str]

    def __init__(
        self,
        rng: np.random.Generator,
        image_shape: Shape,
        number_of_classes: int,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.image_shape = tuple(image_shape)
        self.number_of_classes = number_of_classes
        self.normalisation = normalisation or Normalisation.identity(self.image_shape[0])
        self.parameters: dict[str, Any] = {
            name: _shared(self.initial_value(rng, name, shape), name)
            for name, shape in self.parameter_shapes(self.image_shape, number_of_classes).items()
        }
        # Shared, not constants: functions for other statistics are the same graph and come from PyTensor's cache.
        self._mean = _shared(self.normalisation.mean[:, None, None], "mean")
        self._deviation = _shared(self.normalisation.deviation[:, None, None], "deviation")

    @staticmethod
    @abstractmethod
    def parameter_shapes(image_shape: Shape, number_of_classes: int) -> dict[str, Shape]:
        """The shape of each parameter, in the order in which images meet them.

        Raises
        ------
        ValueError
            The network cannot read images of this shape.
        """

    @staticmethod
    @abstractmethod
    def initial_value(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
        """What the parameter ``name`` starts from."""

    @abstractmethod
    def logits(self, images: Variable) -> Variable:
        """Scores (batch, classes), any real numbers, of normalised images (batch, channels, rows, columns)."""

    def log_probabilities(self, images: Variable) -> Variable:
        """Logarithms of `probabilities`, exact where a probability is too small for a float.

        Parameters
        ----------
        images : float32 tensor, (batch, channels, rows, columns)
            Pixels in [0, 1].

        Returns
        -------
        float32 tensor, (batch, classes)
        """
        return log_softmax(self.logits((images - self._mean) / self._deviation), axis=1)

    def probabilities(self, images: Variable) -> Variable:
        """How probable each class is for each image.

        Parameters
        ----------
        images : float32 tensor, (batch, channels, rows, columns)
            Pixels in [0, 1].

        Returns
        -------
        float32 tensor, (batch, classes)
            Each row sums to one.
        """
        return pt.exp(self.log_probabilities(images))

    def first_filters(self) -> np.ndarray:
        """The filters of the first layer as they lie on an image, (filters, channels, rows, columns).

        A convolution turns its filters by half a turn before it lays them on; so does this.
        """
        filters = next(p for p in self.parameters.values() if p.type.ndim == 4)
        return filters.get_value()[:, :, ::-1, ::-1]

    def get_values(self) -> dict[str, np.ndarray]:
        """A copy of all parameters, by name."""
        return {name: parameter.get_value() for name, parameter in self.parameters.items()}

    def set_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Replace all parameters.

        Parameters
        ----------
        values : mapping of str to float32 array
            As `get_values` gives them.

        Raises
        ------
        ValueError
            Names, shapes or dtypes are not this network's.
        """
        if set(values) != set(self.parameters):
            raise ValueError(f"values must be of the parameters {', '.join(self.parameters)}, got {', '.join(values)}")
        for name, parameter in self.parameters.items():
            value, shape = values[name], parameter.type.shape
            if value.shape != shape or value.dtype != np.float32:
                raise ValueError(f"{name} must be float32 of shape {shape}, got {value.dtype} of shape {value.shape}")
        for name, parameter in self.parameters.items():
            parameter.set_value(values[name])


def glorot_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
    """Random weights between plus and minus sqrt(6 / (fan_in + fan_out)).

    With these, in a network of tanh units, activations keep their size from layer to layer on the way forward and
    gradients on the way back (X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", 2010).

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    fan_in : int
        How many inputs one unit sees.
    fan_out : int
        How many units one input reaches.

    Returns
    -------
    float32 array of ``shape``

    Examples
    --------
    >>> import numpy as np
    >>> weights = glorot_uniform(np.random.default_rng(0), (100, 50), fan_in=100, fan_out=50)
    >>> weights.dtype, bool(abs(weights).max() <= 0.2)
    (dtype('float32'), True)
    """
    bound = np.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def he_normal(rng: np.random.Generator, shape: Shape, fan_in: int) -> np.ndarray:
    """Random weights of standard deviation sqrt(2 / fan_in).

    With these, in a network of rectifiers, activations keep their size from layer to layer (K. He et al., "Delving
    deep into rectifiers", 2015).

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    fan_in : int
        How many inputs one unit sees.

    Returns
    -------
    float32 array of ``shape``

    Examples
    --------
    >>> import numpy as np
    >>> weights = he_normal(np.random.default_rng(0), (200, 50), fan_in=200)
    >>> weights.dtype, round(float(weights.std()), 2)
    (dtype('float32'), 0.1)
    """
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))


def _shared(value: np.ndarray, name: str) -> Any:
    """A shared variable whose shape PyTensor knows."""
    return pytensor.shared(value, name=name, shape=value.shape)
