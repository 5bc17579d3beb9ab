"""A program compiled and captured: one launch for a whole function, new values of shared variables included.

The steps are: torch's tracer runs the program once on fake tensors, torch's compiler (Inductor) fuses what lies between
our kernels and cuBLAS's, and the result is captured in one CUDA graph, which reads its inputs, and writes the new
values of shared variables, where they lie. Where the compiler fails, the program is captured as it is.

Nothing of this changes a shared variable: the runs before the capture compute on copies. Nor do other processes notice.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytensor.graph.basic import Variable

from pytensor_convnet.cuda.compiling import Step, compile_step
from pytensor_convnet.cuda.hosting import HostNumbers
from pytensor_convnet.cuda.numbers import Numbers
from pytensor_convnet.cuda.program import Program
from pytensor_convnet.kernels.collectives import rehearsal


class Capture:
    """A program for one combination of shapes, ready to be launched.

    Parameters
    ----------
    program : Program
    inputs : list of tensor
        Of `Program.on_device`: the very tensors that every launch reads, and updates.
    host : HostNumbers
    known : dict of Variable to NumPy array
        As `HostProgram.values` gives them.
    arguments : dict of int to number
        By the place among ``inputs``, the arguments of no axes.
    compile : bool
        Whether torch's compiler fuses the program.

    Attributes
    ----------
    compiled : bool
        Whether the compiler did.
    """

    def __init__(
        self,
        program: Program,
        inputs: list[torch.Tensor],
        host: HostNumbers,
        known: dict[Variable, Any],
        arguments: dict[int, Any],
        compile: bool,
    ) -> None:
        self.inputs = inputs
        device = program.target.device
        self.feeds = program.feed_tensors(host)
        same = program.same_feeds([tuple(tensor.shape) for tensor in inputs])
        self.feeds = [self.feeds[place] for place in same]
        # Each is written once, wherever it is read.
        own = [tensor if first == place else None for place, (first, tensor) in enumerate(zip(same, self.feeds))]
        numbers = [*(inputs[place] for place in arguments), *own]
        starts = range(len(numbers) - len(host.windows), len(numbers))
        self._numbers = Numbers(numbers, [*arguments.values(), *host.feeds], starts)
        self._returned = [
            place for place in range(len(program.fgraph.outputs))
            if place not in program.updates and place not in program.host_outputs
        ]  # fmt: skip
        self._count = len(program.fgraph.outputs)
        step = as_step(program, host, known, self._returned)
        increments = self._numbers.increments
        step = _growing(step, [len(inputs) + place - len(arguments) for place in increments])
        read = [*self.feeds, *increments.values()]
        with exact_or_not(program.target.precision):
            scratch = [tensor.clone() for tensor in inputs]
            self.compiled = False
            if compile and device.type == "cuda":
                step = self._compiled(step, [*scratch, *read])
            self._launch, results = _captured(step, [*inputs, *read], [*scratch, *read], device)
        # What the graph reads has to outlive it: constants of the compiled step, and what was uploaded for it.
        self._read = step, list(program.target.uploaded.values())
        self._results = results

    def _compiled(self, step: Step, scratch: list[torch.Tensor]) -> Step:
        try:
            compiled = compile_step(step, scratch)
            with rehearsal():
                compiled(*scratch)
        except Exception as error:  # whatever a compiler may raise; the program runs without it
            warnings.warn(
                f"torch's compiler failed ({type(error).__name__}: {str(error).partition(chr(10))[0]}); the function "
                "is captured without it, which is slower",
                stacklevel=2,
            )
            return step
        self.compiled = True
        return compiled

    def launch(self, numbers: Sequence[Any]) -> None:
        """Run the function once, with these arguments of no axes and feeds."""
        self._numbers.write(numbers)
        results = self._launch()
        self._numbers.launched()
        if results is not None:
            self._results = results

    def results(self) -> list[torch.Tensor | None]:
        """Copies of the outputs of the last launch, which the next one does not touch."""
        outputs: list[torch.Tensor | None] = [None] * self._count
        for place, tensor in zip(self._returned, self._results):
            outputs[place] = tensor.clone()
        return outputs


def as_step(program: Program, host: HostNumbers, known: dict[Variable, Any], returned: list[int]) -> Step:
    """A program as a function of tensors that returns outputs and writes new values into its inputs."""
    count = len(program.on_device)
    place_of = {place: position for position, place in enumerate(program.on_device)}

    def step(*tensors: torch.Tensor) -> list[torch.Tensor]:
        inputs, feeds = tensors[:count], tensors[count:]
        outputs: list[Any] = list(program.run(inputs, feeds, host, known))
        written = [
            (inputs[place_of[place]], outputs[output]) for output, place in program.updates.items() if place in place_of
        ]
        # A new value that is an old one, maybe of another variable, is copied before anything is written.
        held = {tensor.untyped_storage()._cdata for tensor in tensors}
        fresh = [(to, new.clone() if new.untyped_storage()._cdata in held else new) for to, new in written]
        results = [
            outputs[place].clone() if outputs[place].untyped_storage()._cdata in held else outputs[place]
            for place in returned
        ]
        for to, new in fresh:
            to.copy_(new)
        return results

    return step


def _growing(step: Step, places: list[int]) -> Step:
    """A step that, when it ends, adds its last arguments to those at these places, one each."""

    def growing(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        count = len(tensors) - len(places)
        results = step(*tensors[:count])
        for place, increment in zip(places, tensors[count:]):
            tensors[place].copy_(tensors[place] + increment)
        return results

    return growing


def _captured(
    step: Step, tensors: list[torch.Tensor], scratch: list[torch.Tensor], device: torch.device
) -> tuple[Callable[[], Any], Sequence[torch.Tensor]]:
    """What runs the step, and the tensors that its results are in."""
    if device.type != "cuda":
        return lambda: step(*tensors), ()
    with torch.cuda.device(device), torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), rehearsal():
            for _ in range(2):
                step(*scratch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = step(*tensors)
    return graph.replay, results


@contextmanager
def exact_or_not(precision: str) -> Any:
    """Products of matrices in tf32 where the precision allows it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision in ("medium", "bf16")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
