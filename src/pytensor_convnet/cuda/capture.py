"""A program compiled and captured: one launch for a whole function, new values of shared variables included.

The steps are: torch's tracer runs the program once on fake tensors, torch's compiler (Inductor) fuses what lies between
our kernels and cuBLAS's, and the result is captured in one CUDA graph, which reads its inputs, and writes the new
values of shared variables, where they lie. Where the compiler fails, the program is captured as it is.

Nothing of this changes a shared variable: the runs before the capture compute on copies. Nor do other processes notice.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from pytensor.graph.basic import Variable

from pytensor_convnet.cuda.compiling import Step, compile_step
from pytensor_convnet.cuda.hosting import HostNumbers
from pytensor_convnet.cuda.numbers import Numbers
from pytensor_convnet.cuda.program import Program
from pytensor_convnet.cuda.rings import Ring, launch_number, write_slot
from pytensor_convnet.kernels.collectives import rehearsal
from pytensor_convnet.kernels.cuda.tf32 import tf32_products
from pytensor_convnet.lowering.cuda.base import torch_dtype


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
        feeds = program.feed_tensors(host)
        same = program.same_feeds([tuple(tensor.shape) for tensor in inputs])
        # Each is written once, wherever it is read.
        own = [tensor if first == place else None for place, (first, tensor) in enumerate(zip(same, feeds))]
        self._launches, launch = 0, launch_number(device)
        outputs = program.fgraph.outputs
        self._returned = [
            place for place in range(len(outputs)) if place not in program.updates and place not in program.host_outputs
        ]
        self.rings = {
            place: Ring(torch_dtype(outputs[place]), device)
            for place in self._returned if getattr(outputs[place].type, "ndim", None) == 0
        }  # fmt: skip
        numbers = [*(inputs[place] for place in arguments), *own, launch if self.rings else None]
        growing = range(len(numbers) - 1 - len(host.windows), len(numbers))
        self._numbers = Numbers(numbers, [*arguments.values(), *host.feeds, 0], growing)
        self._count = len(outputs)
        read = [*inputs, *(feeds[place] for place in same)]
        rings, increments = [ring.values for ring in self.rings.values()], self._numbers.increments
        places = [len(inputs) + place - len(arguments) for place in increments]
        step = with_rings_and_growth(as_step(program, host, known, self._returned), len(read), len(rings), places)
        state = [launch, *rings, *increments.values()]
        with exact_or_not(program.target.precision):
            scratch = [*(tensor.clone() for tensor in inputs), *read[len(inputs) :], *state]
            self.compiled = False
            if compile and device.type == "cuda":
                step = self._compiled(step, scratch)
            self._launch, results = _captured(step, [*read, *state], scratch, device)
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
        for ring in self.rings.values():
            ring.make_room(self._launches)
        self._numbers.write([*numbers, self._launches])
        results = self._launch()
        self._numbers.launched()
        self._launches += 1
        if results is not None:
            self._results = results

    def results(self) -> list[torch.Tensor | None]:
        """The outputs of the last launch, which the next one does not touch: slots of rings, and copies."""
        outputs: list[torch.Tensor | None] = [None] * self._count
        for place, ring in self.rings.items():
            outputs[place] = ring.value(self._launches - 1)
        others = [place for place in self._returned if place not in self.rings]
        for place, tensor in zip(others, self._results):
            outputs[place] = tensor.clone()
        return outputs

    def lend(self, arrays: Sequence[Any]) -> None:
        """Say by which arrays the outputs of the last launch were returned."""
        for place, ring in self.rings.items():
            ring.lend(self._launches - 1, arrays[place])


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


def with_rings_and_growth(step: Step, count: int, rings: int, growing: list[int]) -> Step:
    """A step that leaves results of no axes in rings, and adds to its numbers what they go up by, when it ends.

    Parameters
    ----------
    step : callable
        Of ``count`` tensors.
    rings : int
        How many of its results have no axes.
    growing : list of int
        Which of its arguments grow: places of numbers, and ``count``, the number of the launch.

    Returns
    -------
    callable
        Of the step's tensors, the number of the launch, the values of the rings, and an increment for each that grows.
        Returns the other results.
    """

    def whole(*tensors: torch.Tensor) -> list[torch.Tensor]:
        results = step(*tensors[:count])
        values = iter(tensors[count + 1 : count + 1 + rings])
        others = []
        for result in results:
            if result.ndim:
                others.append(result)
            else:
                write_slot(next(values), tensors[count], result)
        for place, increment in zip(growing, tensors[count + 1 + rings :], strict=True):
            tensors[place].copy_(tensors[place] + increment)
        return others

    return whole


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


def exact_or_not(precision: str) -> AbstractContextManager[None]:
    """Products of matrices in tf32 where the precision allows it."""
    return tf32_products(precision in ("medium", "bf16"))
