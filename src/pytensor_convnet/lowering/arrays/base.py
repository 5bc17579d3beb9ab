"""The few operations on arrays that pooling and normalisation are made of."""

from abc import ABC, abstractmethod
from typing import Any


class Arrays(ABC):
    """What array libraries call by different names, or do not have."""

    @abstractmethod
    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """``x`` where the condition holds, else ``y``."""

    @abstractmethod
    def isfinite(self, tensor: Any) -> Any:
        """Where a tensor is neither infinite nor NaN."""

    @abstractmethod
    def arange(self, count: int) -> Any:
        """The int32 numbers from 0 to ``count - 1``."""

    @abstractmethod
    def cast(self, tensor: Any, dtype: str) -> Any:
        """The tensor in another dtype."""

    @abstractmethod
    def lowest(self, tensor: Any) -> Any:
        """A number that no other of the tensor's dtype is less than."""

    @abstractmethod
    def cut(self, tensor: Any, axis: int, start: int, length: int, outside: Any) -> Any:
        """``length`` places of an axis, from ``start`` on, which may be negative; ``outside`` is beyond the tensor."""

    @abstractmethod
    def repeat(self, tensor: Any, axis: int, times: int) -> Any:
        """Each place of an axis so many times in a row."""

    @abstractmethod
    def pick(self, planes: Any, places: Any) -> Any:
        """From planes, (batch, channels, pixels), the pixels at ``places``, (batch, channels, number)."""

    @abstractmethod
    def scatter(self, values: Any, places: Any, pixels: int) -> Any:
        """Planes of so many pixels, zero but for ``values``, added up at ``places``: the adjoint of `pick`."""
