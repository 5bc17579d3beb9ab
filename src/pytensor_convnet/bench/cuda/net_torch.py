"""PyTorch as a peer in training networks on a GPU: eager, compiled, and with the whole step in one CUDA graph."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pytensor_convnet.bench.cuda.net import Implementation, Steps, Training
from pytensor_convnet.bench.peers.torch import network_of

WARM_UPS = 11
"""Steps before a capture: to compile, to let cuDNN choose, and to make the optimiser's velocities."""


@contextmanager
def fastest_settings() -> Iterator[None]:
    """Let cuDNN measure its algorithms, and let float32 products be of tf32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


class _Learner:
    """A network, its optimiser and its data set on the device, in one layout."""

    def __init__(self, training: Training, layout: str, dtype: torch.dtype = torch.float32) -> None:
        case, data = training.case, training.data
        self.training, self.dtype = training, dtype
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        network = network_of(case, data.parameters)
        self.network = network.to(training.device, dtype, memory_format=memory_format)
        self.images = torch.from_numpy(data.images).to(training.device, memory_format=memory_format)
        self.labels = torch.from_numpy(data.labels.astype(np.int64)).to(training.device)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), case.learning_rate, case.momentum, fused=training.device == "cuda"
        )

    def loss_of(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a minibatch."""
        with torch.autocast(self.training.device, torch.bfloat16, enabled=self.training.precision == "bf16"):
            scores = self.network(images)
        return cross_entropy(scores.to(self.dtype), labels)

    def minibatch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The images and labels of that number, as views."""
        batch = self.training.case.batch
        here = slice(number * batch, (number + 1) * batch)
        return self.images[here], self.labels[here]

    def step(self, loss_of: Callable[..., torch.Tensor], *operands: torch.Tensor) -> torch.Tensor:
        """Let the network learn from a loss; its value before, without what it came from."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = loss_of(*operands)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def start_again(self) -> None:
        """Put parameters and velocities back to what they started from, where they are in memory."""
        start = network_of(self.training.case, self.training.data.parameters)
        with torch.no_grad():
            for parameter, value in zip(self.network.parameters(), start.parameters(), strict=True):
                parameter.copy_(value)
            for state in self.optimiser.state.values():
                if state.get("momentum_buffer") is not None:
                    state["momentum_buffer"].zero_()


class TorchEager(Implementation):
    """PyTorch as most write it."""

    name = "torch eager"
    layouts = ("channels_last", "bc01")

    def steps(self, training, layout):
        learner = _Learner(training, layout)
        loss_of = self._compiled(learner.loss_of)
        return Steps(lambda number: learner.step(loss_of, *learner.minibatch(number)), training.wait, fastest_settings)

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


class TorchCompiled(TorchEager):
    """The loss, and so its gradients, by `torch.compile`, which captures each of the two in a CUDA graph."""

    name = "torch compiled"
    backend = "inductor"

    def _compiled(self, function):
        mode = "reduce-overhead" if self.backend == "inductor" else None
        return torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend, mode=mode)


class TorchCaptured(Implementation):
    """The loss by `torch.compile`, and minibatch, loss, gradients and optimiser together in one CUDA graph."""

    name = "torch captured"
    layouts = ("channels_last", "bc01")
    backend = "inductor"

    def steps(self, training, layout):
        learner = _Learner(training, layout)
        batch = training.case.batch
        first = torch.zeros((), dtype=torch.int64, device=training.device)
        places = torch.arange(batch, device=training.device)

        def loss_from(first, places, images, labels):
            here = first + places
            return learner.loss_of(images[here], labels[here])

        compiled = torch.compile(loss_from, fullgraph=True, dynamic=False, backend=self.backend)

        def whole_step():
            return learner.step(compiled, first, places, learner.images, learner.labels)

        run = self._captured(whole_step, learner) if training.device == "cuda" else whole_step

        def step(number):
            first.fill_(number * batch)
            return run()

        return Steps(step, training.wait, fastest_settings, held=(learner, places))

    def _captured(self, whole_step: Callable[[], torch.Tensor], learner: _Learner) -> Callable[[], torch.Tensor]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), fastest_settings():
            for _ in range(WARM_UPS):
                whole_step()
        torch.cuda.current_stream().wait_stream(stream)
        learner.optimiser.zero_grad(set_to_none=True)  # the graph's own memory is to hold the gradients
        graph = torch.cuda.CUDAGraph()
        # Other libraries of this process may have threads that call the driver meanwhile.
        with fastest_settings(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = whole_step()
        learner.start_again()

        def replay():
            graph.replay()
            return loss

        return replay


def exact_losses(training: Training, numbers: list[int]) -> np.ndarray:
    """The losses of steps on these minibatches, one after the other, in float64."""
    learner = _Learner(replace(training, precision="medium"), "bc01", torch.float64)
    losses = []
    for number in numbers:
        images, labels = learner.minibatch(number)
        losses.append(float(learner.step(learner.loss_of, images.double(), labels)))
    return np.array(losses)


def free_memory(device: str) -> None:
    """Give back the device's memory, and what `torch.compile` made: the next networks are no recompilations of it."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
