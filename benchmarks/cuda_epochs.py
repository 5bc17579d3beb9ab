"""Whole trainings on a GPU: 20 epochs over 50,000 images of 3 x 32 x 32 with cuda-convnet's network, as `train` trains.

    python benchmarks/cuda_epochs.py                               # minibatches of 128 and of 1024
    python benchmarks/cuda_epochs.py --batch-sizes 128 --precision bf16 --json epochs.json

The images are random and lie on the GPU; none are held out. Told are the seconds of compilation, which is apart; those
from its end to the end of the last epoch, the command line's progress included; and, of an epoch of a second training
that torch's profiler records, the share of time in which the GPU did anything and what was copied between host and GPU.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pytensor_convnet import training
from pytensor_convnet.bench.cuda.net import Ours
from pytensor_convnet.datasets import Dataset
from pytensor_convnet.history import EpochReport
from pytensor_convnet.models import CudaConvnet, Normalisation
from pytensor_convnet.profiling import COPY, FILL, KERNEL, busy_time
from pytensor_convnet.reports import TrainingDisplay

IMAGE_SHAPE = (3, 32, 32)
CLASSES = 10
EPOCHS_TO_RECORD = 3  # the last of them
LEARNING_RATE = 0.001  # of random labels little can be learnt; what is wanted is finite


@dataclass(frozen=True)
class DeviceUse:
    """What a GPU did in a stretch of time.

    Attributes
    ----------
    busy : float
        The share of the time, from the first thing it did to the last, in which it did anything.
    copies : dict of str to int
        How often so many bytes were copied, '8 bytes to the GPU' for example.
    """

    busy: float
    copies: dict[str, int]

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]]) -> "DeviceUse":
        """What the events of a trace say, as torch's profiler writes them; times are in microseconds.

        Examples
        --------
        >>> copy = {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "args": {"bytes": 8}}
        >>> kernels = [{"cat": "kernel", "name": "conv", "ts": ts, "dur": 4} for ts in (2, 4, 9)]
        >>> DeviceUse.of([copy | {"ts": 0, "dur": 1}, *kernels, {"cat": "cpu_op", "ts": -5, "dur": 99}])
        DeviceUse(busy=0.8461538461538461, copies={'8 bytes to the GPU': 1})
        """
        on_device = [event for event in events if event.get("cat") in (KERNEL, COPY, FILL)]
        end = max((event["ts"] + event["dur"] for event in on_device), default=0.0)
        span = end - min((event["ts"] for event in on_device), default=0.0)
        ways = {"HtoD": "to the GPU", "DtoH": "to the host"}
        copies = Counter(
            f"{event.get('args', {}).get('bytes', 0)} bytes {told}"
            for event in on_device
            for way, told in ways.items()
            if event["cat"] == COPY and way in event["name"]
        )
        return cls(busy_time(on_device) / span if on_device else 0.0, dict(copies.most_common()))


@dataclass(frozen=True)
class Result:
    """How long a training took.

    Attributes
    ----------
    batch_size, images, epochs : int
        ``images`` were learnt from in each epoch.
    mode : str
    compile_seconds : float
    seconds : float
        From the end of compilation to the end of the last epoch.
    seconds_learning : float
        Of these, those that steps of training took by the training's own account.
    use : DeviceUse or None
        Of an epoch of another training; None without a GPU.
    """

    batch_size: int
    images: int
    epochs: int
    mode: str
    compile_seconds: float
    seconds: float
    seconds_learning: float
    use: DeviceUse | None

    def __str__(self) -> str:
        steps = self.epochs * -(-self.images // self.batch_size)
        lines = [
            f"batch {self.batch_size}, {self.mode}: "
            f"{self.epochs} epochs of {self.images} images in {self.seconds:.2f} s "
            f"({self.seconds_learning:.2f} s learning, {1e6 * self.seconds / steps:.0f} us a step), "
            f"compiled in {self.compile_seconds:.1f} s before"
        ]
        if self.use is not None:
            copies = ", ".join(f"{count} x {copy}" for copy, count in self.use.copies.items()) or "nothing"
            lines.append(f"    GPU busy {100 * self.use.busy:.1f}% of an epoch; copied in it: {copies}")
        return "\n".join(lines)


class Clock:
    """Callbacks of a training that take times."""

    compile_seconds = seconds = seconds_learning = 0.0

    def on_compiled(self, seconds: float) -> None:
        """Let time run from now on."""
        self.compile_seconds, self.started = seconds, time.perf_counter()

    def on_epoch(self, report: EpochReport) -> None:
        """Take the time."""
        self.seconds = time.perf_counter() - self.started
        self.seconds_learning += report.seconds


class Recorder:
    """Callbacks of a training that record what the GPU does in its third epoch, but for the steps that began early.

    The second is the profiler's to warm up in: where the host is slow, its start takes longer than an epoch, and the
    GPU waits meanwhile. They are made before the training is: what was captured before the profiler's first start may
    stay hidden from it.
    """

    use: DeviceUse | None = None

    def __init__(self) -> None:
        from torch.profiler import ProfilerActivity, profile, schedule

        self.profiler = profile(activities=[ProfilerActivity.CUDA], schedule=schedule(wait=0, warmup=1, active=1))
        with profile(activities=[ProfilerActivity.CUDA]):
            pass

    def on_compiled(self, seconds: float) -> None:
        """Nothing to do yet."""

    def on_epoch(self, report: EpochReport) -> None:
        """Start after the first epoch, go from warming up to recording after the second, stop after the third."""
        if report.epoch == 1:
            self.profiler.start()
        elif report.epoch == 2:
            self.profiler.step()
        else:
            self.profiler.stop()
            self.use = DeviceUse.of(trace_of(self.profiler))


def trace_of(profiler: Any) -> list[Mapping[str, Any]]:
    """The events that a profiler recorded."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        return json.loads(file.read_text(encoding="utf-8"))["traceEvents"]


def random_dataset(images: int) -> Dataset:
    """So many random images to learn from, and one to be judged by."""
    rng = np.random.default_rng(0)
    pixels = rng.random((images, *IMAGE_SHAPE), dtype=np.float32)
    labels = rng.integers(0, CLASSES, images).astype(np.int32)
    names = tuple(f"class {number}" for number in range(CLASSES))
    return Dataset("random", pixels, labels, pixels[:1], labels[:1], names)


def train(console: Console, images: int, epochs: int, batch_size: int, mode: Any, callbacks: Clock | Recorder) -> None:
    """Train a network as the command line does."""
    dataset = random_dataset(images)
    normalisation = Normalisation.of(dataset.train_images)
    network = CudaConvnet(np.random.default_rng(0), IMAGE_SHAPE, CLASSES, normalisation)
    with TrainingDisplay(console, epochs) as display:

        def on_epoch(report: EpochReport) -> None:
            display.on_epoch(report)
            callbacks.on_epoch(report)

        def on_compiled(seconds: float) -> None:
            display.on_compiled(seconds)
            callbacks.on_compiled(seconds)

        training.train(
            network,
            dataset,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            mode=mode,
            validation_fraction=0,
            overlap_epochs=True,
            on_compiled=on_compiled,
            on_batch=display.on_batch,
            on_epoch=on_epoch,
        )


def measure(console: Console, images: int, epochs: int, batch_size: int, mode: Any, mode_name: str) -> Result:
    """Train a network, and tell how it went; then, on a GPU, train another for the profiler."""
    import torch

    clock = Clock()
    train(console, images, epochs, batch_size, mode, clock)
    times = clock.compile_seconds, clock.seconds, clock.seconds_learning
    result = Result(batch_size, images, epochs, mode_name, *times, use=None)
    console.print(str(result), highlight=False, markup=False, soft_wrap=True)
    if not torch.cuda.is_available():
        return result
    recorder = Recorder()
    train(console, images, EPOCHS_TO_RECORD, batch_size, mode, recorder)
    return dataclasses.replace(result, use=recorder.use)


def main() -> None:
    """Train with each size of minibatch, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--precision", choices=("medium", "bf16"), default="medium", help="of the mode CUDA")
    parser.add_argument("--mode", help="another mode of PyTensor")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    name = arguments.mode or f"CUDA, {arguments.precision}"
    mode = arguments.mode or Ours().mode(arguments.precision)
    console = Console()
    results = [
        measure(console, arguments.images, arguments.epochs, batch_size, mode, name)
        for batch_size in arguments.batch_sizes
    ]
    print(*results, sep="\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
