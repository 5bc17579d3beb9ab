"""Our kernels as one operator of torch, ``pytensor_convnet::kernel``, that its compiler leaves as it is.

What is called and what comes out is said in a string: the name of the kernel, its arguments, and shape, dtype and
physical format of each result. So the compiler knows all it must without running the kernel, and a graph that it
keeps on disk means the same in every process.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from pytensor_convnet.kernels import cuda as kernels
from pytensor_convnet.kernels.cuda.formats import empty

Result = tuple[Sequence[int], torch.dtype, str]
"""Shape, dtype and physical format."""


def call(name: str, tensors: list[Tensor], arguments: Sequence[Any], keywords: dict[str, Any], results: list[Result]):
    """The results of the kernel ``name``, which takes the tensors first and then the arguments."""
    described = [(list(shape), str(dtype).removeprefix("torch."), format) for shape, dtype, format in results]
    return kernel(tensors, json.dumps([name, list(arguments), keywords, described]))


@custom_op("pytensor_convnet::kernel", mutates_args=())
def kernel(tensors: list[Tensor], said: str) -> list[Tensor]:
    """The results of a kernel; see `call`."""
    name, arguments, keywords, described = _understood(said)
    found = getattr(kernels, name)(*tensors, *arguments, **keywords)
    return list(found) if isinstance(found, tuple) else [found]


@kernel.register_fake
def _(tensors: list[Tensor], said: str) -> list[Tensor]:
    *_, described = _understood(said)
    return [empty(shape, format, dtype, tensors[0].device) for shape, dtype, format in described]


@lru_cache(maxsize=4096)
def _understood(said: str) -> tuple[str, tuple, dict[str, Any], list[Result]]:
    name, arguments, keywords, described = json.loads(said)
    results = [(tuple(shape), getattr(torch, dtype), format) for shape, dtype, format in described]
    return name, tuple(_tuples(argument) for argument in arguments), keywords, results


def _tuples(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again; the names of dtypes as dtypes."""
    if isinstance(value, list):
        return tuple(_tuples(entry) for entry in value)
    if isinstance(value, str) and value.startswith("torch."):
        return getattr(torch, value.removeprefix("torch."))
    return value
