"""Draws the README's chart: how long 20 epochs over 50,000 images of 3x32x32 have taken cuda-convnet's network.

    python benchmarks/half_day.py docs/half-day.png

The GPU's figures of torch and JAX are a step's, from ``benchmarks/results/net-h100.json``, times the steps; so is the
CPU's of this package, from ``pytensor-convnet bench net`` (docs/cpu.md). Ours on the GPU is a whole training's
(docs/cuda-mode.md). Theano's is a step of Theano 1.0.5 measured on two cores like those of docs/cpu.md. Minibatches are
of 128 images but for the last bar's. The half day is what made somebody write this: Theano in 2015, with strided
convolutions and overlapping pools.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "net-h100.json"
STEPS = 20 * math.ceil(50_000 / 128)

HALF_DAY = 12 * 3600.0
THEANO_STEP = 0.334
OUR_CPU_STEP = 0.028
OUR_GPU_TRAINING = 1.18
OUR_LARGE_BATCHES = 0.57


@dataclass(frozen=True)
class Bar:
    """One way to train, and its seconds."""

    name: str
    seconds: float
    ours: bool = False


def bars(results: Path = RESULTS) -> list[Bar]:
    """All ways, slowest first."""
    steps: dict[str, float] = {}
    for record in json.loads(results.read_text())["records"]:
        if (record["case"], record["operation"], record["precision"]) == ("cuda_convnet", "step", "medium"):
            name, seconds = record["implementation"], record["seconds"]
            steps[name] = min(seconds, steps.get(name, seconds))  # in the better layout
    return [
        Bar("Theano, 2015", HALF_DAY),
        Bar("Theano 1.0.5, two CPU cores", THEANO_STEP * STEPS),
        Bar("pytensor-convnet, two CPU cores", OUR_CPU_STEP * STEPS, ours=True),
        Bar("JAX, one H100", steps["jax"] * STEPS),
        Bar("torch, whole step in one CUDA graph, one H100", steps["torch captured"] * STEPS),
        Bar("pytensor-convnet, mode CUDA, one H100", OUR_GPU_TRAINING, ours=True),
        Bar("... with minibatches of 1024", OUR_LARGE_BATCHES, ours=True),
    ]


def told(seconds: float) -> str:
    """Seconds as people tell them.

    >>> [told(seconds) for seconds in (1.8, 232, 2612, 43200)]
    ['1.8 s', '3.9 minutes', '44 minutes', '12 hours']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.2g} minutes" if minutes < 100 else f"{minutes / 60:.2g} hours"


def draw(all_bars: list[Bar], path: Path) -> None:
    """Horizontal bars on a logarithmic axis, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    places = range(len(all_bars), 0, -1)
    colours = ["tab:blue" if bar.ours else "0.7" for bar in all_bars]
    axes.barh(places, [bar.seconds for bar in all_bars], color=colours)
    for place, bar in zip(places, all_bars):
        axes.text(bar.seconds * 1.1, place, told(bar.seconds), va="center")
    axes.set_yticks(list(places), [bar.name for bar in all_bars])
    axes.set_xscale("log")
    axes.set_xlim(0.3, 4 * HALF_DAY)
    axes.set_xlabel("seconds for 20 epochs over 50,000 images (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/half_day.py FILE.png")
    draw(bars(), Path(sys.argv[1]))
