"""Kernels compiled side by side in other processes, before they are launched.

Triton holds Python's lock while it compiles, so threads compile one kernel after another. The processes are those that
torch's compiler starts for its own kernels. They use no GPU: operands are meta tensors, which have shapes and no
memory, Triton's driver only says for which GPU kernels are meant, and nothing is launched. What they compile lies in
Triton's cache on disk, where this process finds it at once: kernels, and the C functions that launch them, each of
which takes a C compiler some 0.3 s. Nothing depends on it: what is not there is compiled here. Of methods whose parts
are chosen in turn, the kernels are compiled that are theirs whatever those choices; what is chosen among for the parts,
`tuning_ahead` finds out.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

PATIENCE = 120.0
"""Seconds after which this process compiles for itself what others have not."""

FEWEST = 3
"""Of fewer methods it is not worth to start processes."""

AHEAD = 4
"""So many methods for each processor are given to the processes at a time: who ends meanwhile waits for these."""

Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype."""

_given_up: list[Any] = []
"""Processes that did nothing for so long: who waited for them at each task would wait for hours."""

_begun: dict[Any, Future] = {}
"""What is being compiled: by task, method and operands."""

_planned: list[tuple[Callable[..., Any], Any, Any, tuple[Operand, ...]]] = []
"""What is to be compiled later: how a task is carried out, the task, a method and operands."""

_noting: ContextVar[Callable[[Any, Sequence[torch.Tensor]], None] | None] = ContextVar("noting", default=None)

_launching: ContextVar[bool] = ContextVar("launching", default=True)

_launchers: set[str] = set()
"""The kernels whose launchers this process made."""


def compile_ahead(
    carry_out: Callable[..., Any], task: Any, methods: Sequence[Any], operands: Sequence[torch.Tensor]
) -> list[Future]:
    """Begin to compile all kernels that these methods of a task launch, as far as other processes can.

    Parameters
    ----------
    carry_out : function of a task, a method and operands
        Of a module, and one that asks its operands for no values.

    Returns
    -------
    list of Future
        To be waited for by `await_all`.
    """
    said = described(operands)
    keys = [(task, method, said) for method in methods]
    later = [job for job in _planned if job[1:] not in keys]
    if len(methods) >= FEWEST or len(later) < len(_planned) or any(key in _begun for key in keys):
        _planned[:] = later
        for method in methods:
            _begin(carry_out, task, method, said)
    return [_begun.pop(key) for key in keys if key in _begun]


def plan(carry_out: Callable[..., Any], task: Any, methods: Sequence[Any], operands: tuple[Operand, ...]) -> None:
    """Let what these methods launch be compiled when processes are idle, in the order in which it was planned."""
    _planned.extend((carry_out, task, method, operands) for method in methods)
    _go_on()


def forget_plans() -> None:
    """Compile nothing more of what was planned, and wait for nothing that was begun."""
    _planned.clear()
    _begun.clear()


def _go_on() -> None:
    """Give the processes what was planned, but no more than they will have done soon."""
    most = AHEAD * (os.cpu_count() or 1)
    going = sum(not job.done() for job in _begun.values())
    while _planned and going < most:
        _begin(*_planned.pop(0))
        going += 1


def _begin(carry_out: Callable[..., Any], task: Any, method: Any, operands: tuple[Operand, ...]) -> None:
    """Begin to compile what a method launches, if that was not begun before."""
    key = task, method, operands
    on_meta = replace(task, device=torch.device("meta"))
    job = None if key in _begun else submit(run_without_gpu, carry_out, (on_meta, method), operands)
    if job is not None:
        _begun[key] = job


def submit(function: Callable[..., Any], *arguments: Any) -> Future | None:
    """A function of these arguments, the GPU that kernels are for, and Triton's settings, in another process.

    None where there is no process that could.
    """
    pool = _pool()
    if pool is None or pool in _given_up:
        return None
    answer: Future = Future()
    _messages().put((pool, answer, function, *arguments, driver.active.get_current_target(), _settings()))
    return answer


@functools.cache
def _messages() -> SimpleQueue:
    """What a thread asks of the processes, which makes it wait until they have started."""
    messages: SimpleQueue = SimpleQueue()

    def deliver() -> None:
        while True:
            _ask(*messages.get())

    Thread(target=deliver, name="compiling-ahead", daemon=True).start()
    return messages


def _ask(pool: Any, answer: Future, *asked: Any) -> None:
    """Let the processes do something, and pass their answer on."""

    def pass_on(answered: Future) -> None:
        try:
            answer.set_result(answered.result())
        except Exception as error:  # cancelled, too
            answer.set_exception(error)

    try:
        pool.submit(*asked).add_done_callback(pass_on)
    except Exception as error:  # whatever has become of the processes
        answer.set_exception(error)


def await_all(jobs: Sequence[Future]) -> None:
    """Wait until all that was submitted is done; give the processes up if nothing more is within `PATIENCE`."""
    waiting = set(jobs)
    while waiting:
        done, waiting = wait(waiting, PATIENCE, FIRST_COMPLETED)
        if not done:
            _given_up.append(_pool())
            return
        _go_on()


def described(tensors: Sequence[torch.Tensor]) -> tuple[Operand, ...]:
    """What kernels are compiled for, of these tensors."""
    return tuple((tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors)


def stand_ins(operands: Sequence[Operand]) -> list[torch.Tensor]:
    """Tensors such as these, of no memory."""
    return [torch.empty_strided(shape, strides, dtype=dtype, device="meta") for shape, strides, dtype in operands]


def note(task: Any, operands: Sequence[torch.Tensor]) -> None:
    """Tell whoever wants it `noted` that a method is chosen for a task, on tensors without memory."""
    noting = _noting.get()
    if noting is not None:
        noting(task, operands)


@contextmanager
def noted(by: Callable[[Any, Sequence[torch.Tensor]], None]) -> Iterator[None]:
    """Let a function be called with each task for which a method is chosen within, and its operands."""
    token = _noting.set(by)
    try:
        yield
    finally:
        _noting.reset(token)


def is_launching() -> bool:
    """Whether kernels that this thread calls are launched, or compiled where operands have no memory."""
    return _launching.get()


def start_processes() -> None:
    """Let the processes start and import what they will need, and do not wait for them."""
    if _pool() is None:
        return
    for _ in range(os.cpu_count() or 1):
        submit(run_without_gpu, _nothing, (), ())


def _nothing() -> None:
    """What a process does that has only to be there."""


def run_without_gpu(
    function: Callable[..., Any], arguments: Sequence[Any], operands: Sequence[Operand], target: GPUTarget,
    settings: Mapping[str, str],
) -> bool:  # fmt: skip
    """Compile what a function of arguments and tensors launches for ``target``; whether that was possible."""
    with with_settings(settings), without_gpu(target):
        try:
            function(*arguments, *stand_ins(operands))
        except Exception:  # who launches it will see it again
            return False
    return True


def _pool() -> Any:
    """The processes of torch's compiler; None where it has none, or would fork this one."""
    try:
        from torch._inductor.async_compile import AsyncCompile, get_compile_threads
        from torch._inductor.compile_worker.subproc_pool import SubprocPool

        pool = AsyncCompile.process_pool() if get_compile_threads() > 1 else None
    except Exception:  # it is no public part of torch
        return None
    return pool if isinstance(pool, SubprocPool) else None


def _settings() -> dict[str, str]:
    """Triton's settings, its folder among them, and what says where `runtime_compiler` keeps what it makes."""
    folders = "XDG_CACHE_HOME", "PYTENSOR_CONVNET_CUBIN_CACHE"
    return {name: value for name, value in os.environ.items() if name.startswith("TRITON_") or name in folders}


@contextmanager
def with_settings(settings: Mapping[str, str]) -> Iterator[None]:
    before = _settings()
    for name in before:
        del os.environ[name]
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)
        os.environ.update(before)


@dataclass(frozen=True)
class _Driver:
    """What Triton asks of a driver before a kernel is launched."""

    target: GPUTarget

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> GPUTarget:
        return self.target  # by which kernels are kept in memory

    def get_current_stream(self, device: GPUTarget) -> int:
        return 0


@contextmanager
def without_gpu(target: GPUTarget) -> Iterator[None]:
    """Let kernels be compiled for a GPU and not launched."""
    run, before = JITFunction.run, dict(vars(driver))

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        _make_launcher(kernel)
        return kernel

    driver.set_active(_Driver(target))
    JITFunction.run = only_compile
    try:
        yield
    finally:
        JITFunction.run = run
        vars(driver).update(before)


def _make_launcher(kernel: Any) -> None:
    """Compile the C function by which Triton launches a kernel, for whoever does."""
    if kernel is None or kernel.hash in _launchers:
        return
    _launchers.add(kernel.hash)
    with suppress(Exception):  # it is no public part of Triton, and needs CUDA's library
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(kernel.src, kernel.metadata)


@contextmanager
def nothing_launched() -> Iterator[None]:
    """Let kernels that are called within, by this thread, be neither compiled nor launched."""
    run = JITFunction.run

    def unless_here(self: Any, *arguments: Any, **options: Any) -> Any:
        return run(self, *arguments, **options) if is_launching() else None

    JITFunction.run = unless_here
    token = _launching.set(False)
    try:
        yield
    finally:
        _launching.reset(token)
        JITFunction.run = run
