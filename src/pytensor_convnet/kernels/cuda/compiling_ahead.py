"""Candidates compiled side by side in other processes, before they are tried.

Triton holds Python's lock while it compiles, so threads compile one kernel after another. The processes are those that
torch's compiler starts for its own kernels. They use no GPU: operands are meta tensors, which have shapes and no
memory, Triton's driver only says for which GPU kernels are meant, and nothing is launched. What they compile lies in
Triton's cache on disk, where this process finds it at once. Nothing depends on it: what is not there is compiled here.
Of methods whose parts are chosen in turn, the kernels are compiled that are theirs whatever those choices.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

PATIENCE = 120.0
"""Seconds after which this process compiles for itself what others have not."""

FEWEST = 3
"""Of fewer methods it is not worth to start processes."""

Operand = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype."""

_given_up: list[Any] = []
"""Processes that have done nothing for so long: who waited for them at each task would wait for hours."""


def compile_ahead(
    carry_out: Callable[..., Any], task: Any, methods: Sequence[Any], operands: Sequence[torch.Tensor]
) -> None:
    """Compile all kernels that these methods of a task launch, as far as other processes can; and wait for it.

    Parameters
    ----------
    carry_out : function of a task, a method and operands
        Of a module, and one that asks its operands for no values.
    """
    pool = _pool() if len(methods) >= FEWEST else None
    if pool is None or pool in _given_up:
        return
    target, settings = driver.active.get_current_target(), _settings()
    said = [(tuple(operand.shape), operand.stride(), operand.dtype) for operand in operands]
    try:
        jobs = [pool.submit(compile_here, carry_out, task, method, said, target, settings) for method in methods]
        if not wait(jobs, PATIENCE).done:
            _given_up.append(pool)
    except Exception:  # whatever has become of the processes
        return


def start_processes() -> None:
    """Let the processes start, and do not wait for them."""
    _pool()


def compile_here(
    carry_out: Callable[..., Any], task: Any, method: Any, operands: Sequence[Operand], target: GPUTarget,
    settings: Mapping[str, str],
) -> bool:  # fmt: skip
    """Compile what a method launches for ``target``, without a GPU; whether that was possible."""
    with _with_settings(settings), _without_gpu(target):
        tensors = [
            torch.empty_strided(shape, strides, dtype=dtype, device="meta") for shape, strides, dtype in operands
        ]
        try:
            carry_out(replace(task, device=torch.device("meta")), method, *tensors)
        except Exception:  # who tries the method will see it again
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
    """Triton's settings, its folder among them."""
    return {name: value for name, value in os.environ.items() if name.startswith("TRITON_")}


@contextmanager
def _with_settings(settings: Mapping[str, str]) -> Iterator[None]:
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
def _without_gpu(target: GPUTarget) -> Iterator[None]:
    """Let kernels be compiled for a GPU, and not launched."""
    run, before = JITFunction.run, dict(vars(driver))

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(self, *arguments, grid=grid, warmup=True, **options)

    driver.set_active(_Driver(target))
    JITFunction.run = only_compile
    try:
        yield
    finally:
        JITFunction.run = run
        vars(driver).update(before)
