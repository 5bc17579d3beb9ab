"""What an adapter provides: for each case, the operations of one implementation as functions without arguments."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.nets import NetCase, NetData


@dataclass(frozen=True)
class Operation:
    """One operation of one implementation on data that is already where it wants it.

    Attributes
    ----------
    run : function without arguments
        Runs the operation to its end and returns its result in whatever form the library has.
    to_numpy : function
        Makes of such a result a NumPy array, images and maps in bc01 and filters likewise.
    """

    run: Callable[[], Any]
    to_numpy: Callable[[Any], np.ndarray] = np.asarray


@dataclass(frozen=True)
class ConvData:
    """Random arrays for a convolution: ``maps`` is the gradient with respect to its output."""

    images: np.ndarray
    filters: np.ndarray
    maps: np.ndarray

    @classmethod
    def of(cls, case: ConvCase) -> "ConvData":
        return cls(*_random(case.image_shape, case.filter_shape, case.map_shape))

    def as_float64(self) -> "ConvData":
        return ConvData(*(array.astype(np.float64) for array in (self.images, self.filters, self.maps)))


@dataclass(frozen=True)
class PoolData:
    """Random arrays for a pool: ``maps`` is the gradient with respect to its output."""

    images: np.ndarray
    maps: np.ndarray

    @classmethod
    def of(cls, case: PoolCase) -> "PoolData":
        return cls(*_random(case.image_shape, case.map_shape))

    def as_float64(self) -> "PoolData":
        return PoolData(self.images.astype(np.float64), self.maps.astype(np.float64))


def _random(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


class Peer(ABC):
    """One implementation. Its package is imported when a `Peer` is made, and not before.

    Parameters
    ----------
    threads : int
        How many threads the implementation may use.
    """

    name: ClassVar[str]
    """As it is called everywhere, and as pip calls it."""

    package: ClassVar[str]
    """What must be importable."""

    suites: ClassVar[tuple[str, ...]] = ("conv", "pool", "net")
    """Where it takes part."""

    layouts: tuple[str, ...]
    """The orders of axes in memory that it is measured with."""

    @classmethod
    def is_installed(cls) -> bool:
        return importlib.util.find_spec(cls.package) is not None

    @abstractmethod
    def __init__(self, threads: int) -> None: ...

    @abstractmethod
    def conv(self, case: ConvCase, data: ConvData, layout: str) -> Mapping[str, Operation]:
        """The operations 'forward', 'input_grad' and 'filter_grad', each computed alone."""

    @abstractmethod
    def pool(self, case: PoolCase, data: PoolData, layout: str) -> Mapping[str, Operation]:
        """The operations 'forward', and 'backward': the gradient alone, given what the forward pass found."""

    @abstractmethod
    def net(self, case: NetCase, data: NetData, layout: str) -> Mapping[str, Operation]:
        """The operation 'step': one step of training on the same minibatch. Its result is the loss before."""


def limit_pytensor_threads(threads: int) -> None:
    """Let what PyTensor compiles for Numba use so many threads: Numba's own, and those of products of matrices."""
    import numba
    import scipy.linalg  # noqa: F401  (loads the BLAS that Numba calls)
    from threadpoolctl import threadpool_limits

    numba.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")
