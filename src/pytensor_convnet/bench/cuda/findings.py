"""What a run on a GPU finds: on which machine, beside which peers, and the file that keeps it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from pytensor_convnet import __version__
from pytensor_convnet.bench import records as records_module
from pytensor_convnet.bench.cuda.timing import GpuMachine
from pytensor_convnet.bench.records import InvalidRecords, Record
from pytensor_convnet.bench.session import InvalidBenchmark

FACTS = ("processor", "driver", "cuda", "python", "commit")
"""What has to be the same, beside packages, for the figures of two runs to stand in one file."""


@dataclass
class Findings:
    """The records of a run, and the file that gets them after each case.

    A file that is there already is added to: a record takes the place of an earlier one of the same operation in the
    same circumstances. So a run that was interrupted can go on, and several runs can make one file. Its ceilings stay
    those of the first run, so that all floors of a file are of the same.
    """

    machine: GpuMachine
    records: list[Record]
    path: Path | None

    @classmethod
    def of(cls, path: Path | None, peers: Sequence[str]) -> "Findings":
        """What a file has so far, or nothing yet.

        Raises
        ------
        InvalidBenchmark
            The file is none of such records, or of another machine or other versions.
        """
        machine = GpuMachine.measured(package_versions(peers))
        if path is None or not path.exists():
            return cls(machine, [], path)
        try:
            earlier, records = records_module.read(path, GpuMachine)
        except InvalidRecords as error:
            raise InvalidBenchmark(f"--json adds to files of such figures: {error}") from error
        if changes := ", ".join(_changes(earlier, machine)):
            raise InvalidBenchmark(f"--json: {path} has figures of another machine or other versions: {changes}")
        return cls(replace(earlier, packages=earlier.packages | machine.packages), records, path)

    def add(self, found: Iterable[Record]) -> None:
        """Take records in, and write all."""
        by_what = {_what(record): record for record in self.records}
        try:
            for record in found:
                by_what[_what(record)] = record
        finally:  # interrupted, too
            self.records = list(by_what.values())
            if self.path is not None:
                records_module.write(self.path, self.machine, self.records)


def _what(record: Record) -> Record:
    """A record but for its figures."""
    return replace(record, seconds=0.0, floor_seconds=None, relative_error=None, extra_bytes=None)


def _changes(earlier: GpuMachine, now: GpuMachine) -> Iterator[str]:
    """What is not the same of two machines, but for ceilings, and packages that one of them alone has."""
    for name in FACTS:
        if getattr(earlier, name) != getattr(now, name):
            yield f"{name} {getattr(earlier, name)}, now {getattr(now, name)}"
    for name, version in earlier.packages.items():
        if now.packages.get(name, version) != version:
            yield f"{name} {version}, now {now.packages[name]}"


@contextmanager
def until_interrupted(say: Callable[[str], object]) -> Iterator[None]:
    """Let Ctrl-C end what is measured within, and nothing after it."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; what is known by now:")


def package_versions(peers: Sequence[str]) -> dict[str, str]:
    """Versions of ours, of what it runs on, and of the peers."""
    named = {name: metadata.version(name) for name in ("torch", "triton", *peers)}
    return {"pytensor-convnet": __version__, "cudnn": str(torch.backends.cudnn.version()), **named}


def present_peers(console: Console, peers: Sequence[str]) -> tuple[str, ...]:
    """Those that are installed; the others are told."""
    present = tuple(peer for peer in peers if find_spec(peer))
    for peer in peers:
        if peer not in present:
            console.print(
                f"not measured, for it is not installed: {peer} (pip install {peer})", highlight=False, soft_wrap=True
            )
    return present
