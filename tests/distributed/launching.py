"""Runs a program in several processes, as torchrun does it."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


def launch(*command, processes=2, timeout=None):
    """The result of torchrun with ``command``, a program's path or ``-m`` and a module, and arguments.

    Parameters
    ----------
    *command : str or path
    processes : int
    timeout : float, optional
        For how many seconds processes wait for one another.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTENSOR_CONVNET_DEVICE": "cpu"}
    if timeout is not None:
        environment["PYTENSOR_CONVNET_TIMEOUT"] = str(timeout)
    # --standalone lets the launcher find a free port, and hold it.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*torchrun, *map(str, command)], capture_output=True, text=True, timeout=300, env=environment)


def errors(result):
    """What the processes themselves told of errors, without torchrun's own report."""
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]
