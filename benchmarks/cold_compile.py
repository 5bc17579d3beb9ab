"""What compiling takes, in seconds of CPU: a training step of LeNet in mode NUMBA, with nothing on disk.

    python benchmarks/cold_compile.py

A process that finds all caches empty makes and runs the step. Each kernel is told without those that it was the first
to call for, and their sum is what our kernels take. A second process finds our kernels, but nothing that PyTensor and
Numba compile for the graph; what both take differs by our kernels, too, but by seconds from one run to the next.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for name in ("cold", "warm"):
            flags = f"base_compiledir={Path(folder) / name}"
            environment = {**os.environ, "NUMBA_CACHE_DIR": str(Path(folder) / "kernels"), "PYTENSOR_FLAGS": flags}
            command = [sys.executable, __file__, "step"]
            printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            total, *kernels = printed.splitlines()
            times.append((float(total), kernels))
    (cold, kernels), (warm, _) = times
    ours = sum(float(line.split()[0]) for line in kernels)
    print(f"our kernels {ours:.2f}; in all {cold:.2f}, with our kernels on disk {warm:.2f}")
    print(*kernels, sep="\n")


def step():
    """Compile and run the step, and print what that took, in all and for each kernel."""
    import numpy as np
    import pytensor
    import pytensor.tensor as pt

    from pytensor_convnet.models.lenet import Lenet

    spent = _note_kernels()
    rng = np.random.default_rng(0)
    lenet = Lenet(rng, image_shape=(1, 28, 28), number_of_classes=10)
    images, labels = pt.tensor("images", shape=(None, 1, 28, 28), dtype="float32"), pt.ivector("labels")
    probabilities = lenet.probabilities(images)
    loss = -pt.log(probabilities)[pt.arange(labels.shape[0]), labels].mean()
    parameters = list(lenet.parameters.values())
    gradients = pt.grad(loss, parameters)
    updates = [(p, p - np.float32(0.1) * gradient) for p, gradient in zip(parameters, gradients)]
    start = time.process_time()
    train = pytensor.function([images, labels], loss, updates=updates, mode="NUMBA")
    train(rng.standard_normal((500, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, 500).astype(np.int32))
    print(time.process_time() - start)
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{seconds:6.2f}  {name}")


def _note_kernels():
    """The seconds that each of our kernels takes, which this will hold as Numba compiles them."""
    from numba.core.ccallback import CFunc
    from numba.core.dispatcher import Dispatcher

    spent: dict[str, float] = {}
    inner = [0.0]

    def noting(compile_):
        def note(compiled, *types):
            start = time.process_time()
            inner.append(0.0)
            entry = compile_(compiled, *types)
            elapsed = time.process_time() - start
            function = compiled.__wrapped__
            package, _, module = function.__module__.partition(".kernels.cpu.")
            own = elapsed - inner.pop()
            if package == "pytensor_convnet" and module:
                name = f"{module}.{function.__name__}"
                spent[name] = spent.get(name, 0.0) + own
            inner[-1] += elapsed
            return entry

        return note

    for kind in (Dispatcher, CFunc):
        setattr(kind, "compile", noting(kind.compile))  # noqa: B010, for mypy
    return spent


if __name__ == "__main__":
    step() if sys.argv[1:] == ["step"] else main()
