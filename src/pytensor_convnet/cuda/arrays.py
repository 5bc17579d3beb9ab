"""What a compiled function returns: an array on the device that is copied to the host when somebody reads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class DeviceError(RuntimeError):
    """The device failed while it computed; the message says with what, and what became of shared variables."""


def to_host(tensor: Any, computed: Any = None) -> np.ndarray:
    """A torch tensor as a NumPy array, once the device has computed it.

    Parameters
    ----------
    tensor : torch.Tensor
    computed : torch.cuda.Event, optional
        When it is. By default, when all that was started before is; with it, work started later goes on meanwhile.

    Raises
    ------
    DeviceError
    """
    try:
        if computed is None:
            return tensor.detach().cpu().numpy()
        with _reading(tensor.device) as stream:
            stream.wait_event(computed)
            return tensor.detach().cpu().numpy()
    except RuntimeError as error:
        raise DeviceError(_explained(error)) from error


@contextmanager
def _reading(device: Any) -> Iterator[Any]:
    """A stream on which nothing else is done but to copy to the host."""
    import torch

    stream = _streams.get(device)
    if stream is None:
        stream = _streams[device] = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        yield stream


_streams: dict[Any, Any] = {}


def recorded(device: Any) -> Any:
    """An event that tells when all that was started before on a GPU's present stream is done; None elsewhere."""
    if device.type != "cuda":
        return None
    import torch

    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _explained(error: RuntimeError) -> str:
    first = str(error).strip().splitlines()[0]
    return (
        f"the GPU failed in work that was started earlier: {first}. An index out of bounds (a label beyond the "
        "classes, say) is the usual cause. The memory of the GPU is lost with it: shared variables have the values "
        "that were last read to the host. Start a new process; training goes on from its last checkpoint."
    )


class DeviceArray(NDArrayOperatorsMixin):
    """An array on the device.

    Shape and dtype are known at once; to read an element waits until the device has computed it. NumPy's functions and
    operators take it as an array, ``float()``, ``int()`` and printing work, and so does all else that an array has:
    ``a.mean()`` is that of its copy on the host, which is made once.

    Parameters
    ----------
    tensor : torch.Tensor
        Not written to afterwards, unless it is told to be lent.
    computed : torch.cuda.Event, optional
        When the device has computed it; None where it has.
    """

    def __init__(self, tensor: Any, computed: Any = None) -> None:
        self._values = tensor, computed  # together, as another thread may read them
        self._is_lent = False
        self._host: np.ndarray | None = None

    @property
    def tensor(self) -> Any:
        """The values on the device, for code that goes on there. (A copy of those that are only lent.)"""
        tensor, computed = self._values
        if not self._is_lent:
            return tensor
        if computed is not None:  # maybe on another stream than the present one, which makes the copy
            import torch

            torch.cuda.current_stream(tensor.device).wait_event(computed)
        self.move(tensor.clone())
        return self._values[0]

    def lend(self) -> None:
        """Tell that others will be written where the values are; before that comes `move`."""
        self._is_lent = True

    def move(self, tensor: Any) -> None:
        """Take this copy of the values instead, which the present stream makes."""
        self._values = tensor, recorded(tensor.device)
        self._is_lent = False

    def _array(self) -> np.ndarray:
        if self._host is None:
            is_lent = self._is_lent
            array = to_host(*self._values)
            self._host = array.copy() if is_lent else array  # where the device is the CPU, it shows the tensor's memory
        return self._host

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._array()
        return array.astype(dtype) if dtype is not None and array.dtype != dtype else array.copy() if copy else array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        arrays = [np.asarray(x) if isinstance(x, DeviceArray) else x for x in inputs]
        if any(isinstance(x, DeviceArray) for x in keywords.get("out") or ()):
            del keywords["out"]  # as for numbers, `a += b` gives another array
        return getattr(ufunc, method)(*arrays, **keywords)

    def is_ready(self) -> bool:
        """Whether it can be read without waiting."""
        computed = self._values[1]
        return self._host is not None or computed is None or computed.query()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._values[0].shape)

    @property
    def ndim(self) -> int:
        return self._values[0].ndim

    @property
    def size(self) -> int:
        return self._values[0].numel()

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(str(self._values[0].dtype).removeprefix("torch."))

    def __float__(self) -> float:
        return float(self._array())

    def __int__(self) -> int:
        return int(self._array())

    def __index__(self) -> int:
        return self._array().__index__()

    def __bool__(self) -> bool:
        return bool(self._array())

    def __len__(self) -> int:
        return len(self._array())

    def __iter__(self) -> Any:
        return iter(self._array())

    def __getitem__(self, index: Any) -> Any:
        return self._array()[index]

    def __repr__(self) -> str:
        return repr(self._array()).replace("array(", "DeviceArray(", 1)

    def __str__(self) -> str:
        return str(self._array())

    def __format__(self, specification: str) -> str:
        return format(self._array().item() if self.ndim == 0 and specification else self._array(), specification)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array(), name)

    def __reduce__(self) -> Any:
        return np.asarray, (self._array(),)
