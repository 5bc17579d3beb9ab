"""Means over processes, on DEVICE, of what depends on a process's number; each process writes what it got to
FOLDER/RANK.npz.
"""

import sys
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
import torch

from pytensor_convnet.distributed import all_mean, joined
from pytensor_convnet.kernels import collectives

matrix = np.arange(6, dtype="float32").reshape(2, 3)
vector = np.arange(4, dtype="float64")


def main(device, folder):
    with joined(device) as processes:
        number = np.float32(processes.rank)
        got = {}
        x, y, z = pt.fmatrix(), pt.dvector(), pt.fscalar()
        for mode in ("FAST_COMPILE", "CVM", "NUMBA", "CUDA"):
            function = pytensor.function([x, y, z], all_mean(x.T, y[::-1], z), mode=mode)
            for name, mean in zip(("matrix", "vector", "scalar"), function(number * matrix, vector + number, number)):
                got[f"{mode} {name}"] = mean

        # Each process's parameter is its own, and so are its loss and its gradients.
        w = pytensor.shared(np.float64(2 + processes.rank))
        loss = (all_mean(w) ** 2) * (1 + processes.rank)
        got["gradient"] = pytensor.function([], pytensor.grad(loss, w), mode="FAST_COMPILE")()

        # One mean waits for another; a third can join the first.
        chain = all_mean(all_mean(z) * (1 + z))
        got["chain"] = pytensor.function([z], chain + all_mean(z), mode="FAST_COMPILE")(number)

        halves = [torch.full((2,), 60_000.0, dtype=torch.float16), torch.ones(3, dtype=torch.bfloat16) * processes.rank]
        got["halves"] = torch.cat([mean.float() for mean in collectives.all_mean(halves)]).numpy()

        with collectives.rehearsal():
            [got["rehearsed"]] = collectives.all_mean_of_arrays([number + np.zeros(1)])

        got["total"] = processes.total(np.array([1, processes.rank]))
        got["any"] = np.array([processes.any(processes.rank == 1), processes.any(False)])
        mine = {"from first": matrix * (1 + number), "integers from first": np.arange(3) + processes.rank}
        got |= processes.from_first(mine)
        got["rank and count"] = np.array([processes.rank, processes.count])
        np.savez(Path(folder, f"{processes.rank}.npz"), **got)


if __name__ == "__main__":
    main(*sys.argv[1:])
