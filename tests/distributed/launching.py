"""Runs a program in several processes, as torchrun does it."""

import os
import subprocess
import sys
from pathlib import Path

import torch

PROGRAMS = Path(__file__).parent / "programs"

DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"
"""Where functions of mode CUDA compute: each process on a GPU of its own, if there are two."""


def launch(*command, processes=2, timeout=None):
    """The result of torchrun with ``command``, a program's path or ``-m`` and a module, and arguments.

    Parameters
    ----------
    *command : str or path
    processes : int
    timeout : float, optional
        For how many seconds processes wait for one another.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTENSOR_CONVNET_DEVICE": DEVICE}
    # Other tests of a run may have asked for Triton's interpreter, which is no way to train a network.
    environment["TRITON_INTERPRET"] = "0"
    if timeout is not None:
        environment["PYTENSOR_CONVNET_TIMEOUT"] = str(timeout)
    # --standalone lets the launcher find a free port, and hold it.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*torchrun, *map(str, command)], capture_output=True, text=True, timeout=600, env=environment)


def errors(result):
    """What the processes themselves told of errors, without torchrun's own report."""
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]
