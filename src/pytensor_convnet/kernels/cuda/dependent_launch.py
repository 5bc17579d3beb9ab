"""Launches that overlap: a kernel starts while the one before it ends.

On Hopper and later a kernel may be launched as soon as all programs of its predecessor have started ("programmatic
dependent launch"). It does what needs none of the predecessor's results, and waits there. A chain of small kernels, or
a CUDA graph of them, then loses a good part of what lies between two launches.

Every kernel that is launched so calls `await_predecessor` before it reads or writes what another kernel may write or
read. As all of them wait before they let the next one start, what came before the predecessor has ended, too: kernels
of torch's compiler, where they need nothing of their predecessor, rely on that.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from pytensor_convnet.kernels.cuda.hardware import capability_of

FIRST_CAPABILITY = 9, 0


@triton.jit
def await_predecessor(DEPENDENT: tl.constexpr):
    """Wait until all kernels before this one have ended and their results can be seen, and let the next one start."""
    await_only(DEPENDENT)
    let_next_start(DEPENDENT)


@triton.jit
def await_only(DEPENDENT: tl.constexpr):
    """Wait likewise. The next one starts after `let_next_start`, or when this has ended.

    For kernels that take long: programs of the next that wait meanwhile would take multiprocessors from other streams.
    """
    if DEPENDENT:
        gdc_wait()


@triton.jit
def let_next_start(DEPENDENT: tl.constexpr):
    """Let the next kernel start, as far as it needs none of the results of this one."""
    if DEPENDENT:
        gdc_launch_dependents()


def launch_options(device: torch.device) -> dict[str, Any]:
    """What a launch is given in addition, and the kernel's ``DEPENDENT``."""
    able = capability_of(device) >= FIRST_CAPABILITY
    return {"DEPENDENT": True, "launch_pdl": True} if able else {"DEPENDENT": False}
