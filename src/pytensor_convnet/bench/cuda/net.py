"""What is measured of a network on a GPU: steps of training, each from another minibatch of images that lie there."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import torch

from pytensor_convnet.bench.nets import NET_PRECISIONS, NetCase, NetData

RESIDENT_IMAGES = 50_000
RESIDENT_BYTES = 640_000_000
"""A data set has as many images as the first, or fewer where they would have more bytes than the second."""


@dataclass(frozen=True)
class Training:
    """A network to be trained, the precision, and from how many images it learns.

    The device is 'cuda', or 'cpu', which does the same without capturing anything.
    """

    case: NetCase
    precision: str
    images: int
    device: str = "cuda"

    @property
    def dtype(self) -> str:
        return NET_PRECISIONS[self.precision]

    @property
    def minibatches(self) -> int:
        """How many the data set has; images left over are in none."""
        return self.images // self.case.batch

    @property
    def data(self) -> NetData:
        """The images and the initial parameters, which are the same in every process, and made once in each."""
        return _data(self.case, self.images)

    def wait(self) -> None:
        """Let all that torch, or what is built on it, has begun on the device come to its end."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@lru_cache(maxsize=1)
def _data(case: NetCase, images: int) -> NetData:
    return NetData.of(case, images)


def resident_images(case: NetCase) -> int:
    """How many images of a case the GPU is to keep."""
    return min(RESIDENT_IMAGES, RESIDENT_BYTES // (4 * prod(case.image_shape)))


@dataclass(frozen=True)
class Steps:
    """A training that one implementation has ready.

    Attributes
    ----------
    step : function of int
        Begins the step on the minibatch of that number, and returns its loss, which may still be on its way:
        ``float(loss)`` waits for it. It holds until the next step begins.
    wait : function without arguments
        Waits for all steps that were begun.
    settings : function without arguments, optional
        Makes the context in which steps run.
    held : anything, optional
        What has to live as long as the steps: a captured graph reads tensors that it does not hold.
    """

    step: Callable[[int], Any]
    wait: Callable[[], object]
    settings: Callable[[], AbstractContextManager[Any]] = nullcontext
    held: Any = None


class Implementation(ABC):
    """One way to train a network."""

    name: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]]

    def prepare(self, device: str) -> None:
        """Import what a program of this kind begins with, and open the device."""
        torch.zeros((), device=device)

    @abstractmethod
    def steps(self, training: Training, layout: str) -> Steps:
        """Build a training, its data set on the device and its images in that order."""


class Ours(Implementation):
    """This package as its users have it: a function of the number of a minibatch, compiled in the mode 'CUDA'."""

    name = "pytensor-convnet"
    layouts = ("bc01",)

    def prepare(self, device):
        import pytensor_convnet.bench.peers.ours  # noqa: F401  (and with it PyTensor)

        super().prepare(device)

    def steps(self, training, layout):
        import pytensor
        import pytensor.tensor as pt

        from pytensor_convnet.bench.peers.ours import training_step

        case, data = training.case, training.data
        images = pytensor.shared(data.images, shape=data.images.shape, borrow=True)
        labels = pytensor.shared(data.labels, shape=data.labels.shape, borrow=True)
        number = pt.lscalar("number")
        here = slice(number * case.batch, (number + 1) * case.batch)
        loss, updates = training_step(case, data.parameters, images[here], labels[here])
        function = pytensor.function([number], loss, updates=updates, mode=self.mode(training.precision))
        return Steps(function, training.wait)

    def mode(self, precision: str) -> Any:
        """The mode of PyTensor that computes so."""
        if precision == "medium":
            return "CUDA"
        from pytensor_convnet.cuda import cuda_mode

        return cuda_mode(precision=precision)
