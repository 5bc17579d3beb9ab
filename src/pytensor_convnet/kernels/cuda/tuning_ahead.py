"""All that a step will choose among, compiled side by side before its first task is measured.

Tasks are met one after the other, each when the step comes to it, and those that a method is composed of only when that
is tried. If each had to wait for its own candidates, most processors would be idle most of the time. So what a step
calls is first gone through on tensors without memory, while the processes start: no kernel is launched, but every task
comes by. Then the candidates of all tasks are given to the processes, in the order in which they will be needed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from pytensor_convnet.kernels import cuda as kernel_functions
from pytensor_convnet.kernels.cuda.compiling_ahead import (
    Operand,
    described,
    noted,
    nothing_launched,
    plan,
    run_without_gpu,
    stand_ins,
    submit,
)
from pytensor_convnet.kernels.cuda.methods import Composed, Task, ours
from pytensor_convnet.kernels.cuda.tuning import CANDIDATES, family_of, is_open

Need = tuple[Task, tuple[Operand, ...]]
"""A task for which a method will be chosen, and its operands."""


@dataclass(frozen=True)
class Call:
    """A function of `kernels.cuda` as it is called: ``named`` are the names of its last tensors."""

    name: str
    named: Sequence[str]
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]

    def run(self, *tensors: torch.Tensor) -> Any:
        """Call it."""
        count = len(tensors) - len(self.named)
        named = dict(zip(self.named, tensors[count:]))
        return getattr(kernel_functions, self.name)(*tensors[:count], *self.arguments, **named, **self.keywords)


def tune_ahead(calls: Sequence[tuple[Call, tuple[Operand, ...]]], device: torch.device) -> None:
    """Begin to compile what these calls on a GPU launch and will choose among, where that is not known yet."""
    for call, operands in calls:
        if submit(run_without_gpu, call.run, (), operands) is None:
            return
    for task, operands in needs(calls):
        here = dataclasses.replace(task, device=device)
        if is_open(here):
            family = family_of(here)
            plan(family.carry_out, here, ours(family.candidates(here, CANDIDATES)), operands)


def needs(calls: Sequence[tuple[Call, tuple[Operand, ...]]]) -> list[Need]:
    """All tasks of these calls, and those that their methods are composed of, in the order in which they come."""
    found: dict[Need, None] = {}

    def by(task: Task, operands: Sequence[torch.Tensor]) -> None:
        need = task, described(operands)
        if need in found:
            return
        found[need] = None
        family = family_of(task)
        for method in family.candidates(task, CANDIDATES):
            if isinstance(method, Composed):
                with suppress(Exception):  # who carries it out will see it again
                    family.carry_out(task, method, *operands)

    with nothing_launched(), noted(by):
        for call, operands in calls:
            with suppress(Exception):
                call.run(*stand_ins(operands))
    return list(found)
