"""A program compiled and captured: one launch for a whole function, new values of shared variables included.

The steps are: torch's tracer runs the program once on fake tensors, torch's compiler (Inductor) fuses what lies between
our kernels and cuBLAS's, and the result is captured in one CUDA graph, which reads its inputs, and writes the new
values of shared variables, where they lie. Where the compiler fails, the program is captured as it is.

It is captured twice, and launches take turns: while one graph runs, streams beside copy the results of the other and
write its numbers. Between two graphs the device does nothing else then.

Nothing of this changes a shared variable: the runs before the capture compute on copies. Nor do other processes notice.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pytensor.graph.basic import Variable

from pytensor_convnet.cuda.compiling import Step, compile_step
from pytensor_convnet.cuda.hosting import HostNumbers
from pytensor_convnet.cuda.program import Program
from pytensor_convnet.kernels.collectives import rehearsal


@dataclass
class _Turn:
    """One of the graphs that take turns.

    Attributes
    ----------
    replay : callable
        Launches it; without a GPU, runs the program and returns results.
    numbers : list of tensor or None
        Its own tensors of the arguments of no axes and of feeds; None for what is written elsewhere already.
    holds : list
        What these hold.
    results : sequence of tensor
        Where it leaves results.
    written, computed, copied : torch.cuda.Event or None
        When its numbers are written, when it has run, and when its results are copied.
    """

    replay: Callable[[], Any]
    numbers: list[torch.Tensor | None]
    holds: list[Any]
    results: Sequence[torch.Tensor]
    written: Any = None
    computed: Any = None
    copied: Any = None


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
        self._device = device = program.target.device
        feeds = program.feed_tensors(host)
        same = program.same_feeds([tuple(tensor.shape) for tensor in inputs])
        self._returned = [
            place for place in range(len(program.fgraph.outputs))
            if place not in program.updates and place not in program.host_outputs
        ]  # fmt: skip
        self._count = len(program.fgraph.outputs)
        step = as_step(program, host, known, self._returned)

        def numbers_of(inputs: list[torch.Tensor], feeds: list[torch.Tensor]) -> list[torch.Tensor | None]:
            # Each is written once, wherever it is read.
            own = [tensor if first == place else None for place, (first, tensor) in enumerate(zip(same, feeds))]
            return [*(inputs[place] for place in arguments), *own]

        self._turns: list[_Turn] = []
        with exact_or_not(program.target.precision):
            scratch = [tensor.clone() for tensor in inputs]
            self.compiled = False
            if compile and device.type == "cuda":
                step = self._compiled(step, [*scratch, *(feeds[place] for place in same)])
            pool = None
            for again in range(2 if device.type == "cuda" else 1):
                if again:
                    inputs = [tensor.clone() if place in arguments else tensor for place, tensor in enumerate(inputs)]
                    feeds = [tensor.clone() for tensor in feeds]
                read = [*inputs, *(feeds[place] for place in same)]
                replay, results, pool = _captured(step, read, [*scratch, *read[len(inputs) :]], device, pool)
                holds = [*arguments.values(), *host.feeds]
                self._turns.append(_Turn(replay, numbers_of(inputs, feeds), holds, results))
        if device.type == "cuda":
            self._writing, self._copying = torch.cuda.Stream(device), torch.cuda.Stream(device)
            for turn in self._turns:
                turn.written, turn.computed, turn.copied = (torch.cuda.Event() for _ in range(3))
                turn.copied.record()  # numbers have their first values then
        # What the graphs read has to outlive them: constants of the compiled step, and what was uploaded for it.
        self._read = step, list(program.target.uploaded.values())

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

    def launch(self, numbers: Sequence[Any]) -> tuple[list[torch.Tensor | None], Any]:
        """Run the function once, with these arguments of no axes and feeds; only those that changed are written.

        Returns
        -------
        list of tensor or None
            Copies of the outputs, which later launches do not touch; None for those that are not returned.
        torch.cuda.Event or None
            When they are there.
        """
        turn = self._turns[0]
        self._turns.reverse()
        if self._device.type != "cuda":
            self._write(turn, numbers)
            return self._copies(turn.replay()), None
        present = torch.cuda.current_stream(self._device)
        if any(isinstance(value, torch.Tensor) for value in numbers):
            self._writing.wait_stream(present)  # which computes them
        try:  # streams are set by hand, since context managers cost as much as a kernel
            torch.cuda.set_stream(self._writing)
            self._writing.wait_event(turn.copied)
            self._write(turn, numbers)
            turn.written.record(self._writing)
            torch.cuda.set_stream(present)
            present.wait_event(turn.written)
            turn.replay()
            turn.computed.record(present)
            torch.cuda.set_stream(self._copying)
            self._copying.wait_event(turn.computed)
            outputs = self._copies(turn.results)
            turn.copied = torch.cuda.Event()  # another one, since the one before is known to who reads results
            turn.copied.record(self._copying)
        finally:
            torch.cuda.set_stream(present)
        return outputs, turn.copied

    @staticmethod
    def _write(turn: _Turn, numbers: Sequence[Any]) -> None:
        for place, (tensor, value) in enumerate(zip(turn.numbers, numbers, strict=True)):
            if tensor is None:
                continue
            if isinstance(value, torch.Tensor):  # maybe not computed yet: to compare it would be to wait
                tensor.copy_(value)
                turn.holds[place] = None
            elif value != turn.holds[place] or (value == 0 and isinstance(value, float)):  # which may be -0.0
                tensor.fill_(value)
                turn.holds[place] = value

    def _copies(self, results: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        outputs: list[torch.Tensor | None] = [None] * self._count
        for place, tensor in zip(self._returned, results):
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
        held = {tensor.untyped_storage()._cdata for tensor in inputs}
        fresh = [(to, new.clone() if new.untyped_storage()._cdata in held else new) for to, new in written]
        results = [
            outputs[place].clone() if outputs[place].untyped_storage()._cdata in held else outputs[place]
            for place in returned
        ]
        for to, new in fresh:
            to.copy_(new)
        return results

    return step


def _captured(
    step: Step, tensors: list[torch.Tensor], scratch: list[torch.Tensor], device: torch.device, pool: Any
) -> tuple[Callable[[], Any], Sequence[torch.Tensor], Any]:
    """What runs the step, the tensors that its results are in, and the memory that other graphs may use in turn."""
    if device.type != "cuda":
        return lambda: step(*tensors), (), None
    with torch.cuda.device(device), torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), rehearsal():
            for _ in range(2 if pool is None else 0):
                step(*scratch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
            results = step(*tensors)
    return graph.replay, results, graph.pool()


@contextmanager
def exact_or_not(precision: str) -> Any:
    """Products of matrices in tf32 where the precision allows it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision in ("medium", "bf16")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
