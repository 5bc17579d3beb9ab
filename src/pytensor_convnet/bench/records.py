"""What a benchmark finds, as plain data and as JSON."""

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pytensor_convnet import __version__

OPERATIONS = ("forward", "input_grad", "filter_grad", "backward", "step", "first_step", "first_steps")
PACKAGES = ("pytensor", "numba", "numpy", "torch", "jax", "pytensor-ml")


class InvalidRecords(ValueError):
    """A file that is not what `write` writes."""


@dataclass(frozen=True)
class Record:
    """One figure: how long one implementation takes for one operation of one case.

    Attributes
    ----------
    suite, case : str
    operation : str
        One of `OPERATIONS`.
    device, dtype, precision : str
    implementation : str
        'pytensor-convnet' or the name of a peer; in networks on a GPU torch is 'torch eager', 'torch compiled' and
        'torch captured'.
    layout : str
        The order of axes in memory, 'bc01' or 'channels_last'; for our own implementation also what was left out.
    seconds : float
        The median.
    floor_seconds : float or None
        What the machine's ceilings allow, None where a case has no simple count of operations and bytes.
    relative_error : float or None
        ``||result - exact|| / ||exact||``, where exact is computed in float64; None where nothing was compared.
    extra_bytes : int or None
        Peak memory beyond operands and result; None where the system does not tell.
    """

    suite: str
    case: str
    operation: str
    device: str
    dtype: str
    precision: str
    implementation: str
    layout: str
    seconds: float
    floor_seconds: float | None
    relative_error: float | None
    extra_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """What was measured on, and its ceilings at the time.

    Attributes
    ----------
    processor, system, python : str
    cores, threads : int
        How many there are, and how many every implementation was given.
    packages : dict of str to str
        Versions of the packages that were installed.
    float32_flops_per_second, float64_flops_per_second : float
        Of multiply-adds in registers.
    copy_bytes_per_second : float
        Of copying arrays that no cache holds, reads and writes added.
    """

    processor: str
    system: str
    python: str
    cores: int
    threads: int
    packages: dict[str, str]
    float32_flops_per_second: float
    float64_flops_per_second: float
    copy_bytes_per_second: float

    @classmethod
    def measured(cls, threads: int) -> "Machine":
        """This machine, with its ceilings measured now, on as many threads as Numba uses."""
        from pytensor_convnet.bench import ceilings

        return cls(
            processor=_processor(),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            cores=os.cpu_count() or 1,
            threads=threads,
            packages={"pytensor-convnet": __version__}
            | {name: version for name in PACKAGES if (version := _version(name))},
            float32_flops_per_second=ceilings.multiply_add_rate("float32"),
            float64_flops_per_second=ceilings.multiply_add_rate("float64"),
            copy_bytes_per_second=ceilings.copy_rate(),
        )


def _processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write(path: Path, machine: Any, records: Iterable[Record]) -> None:
    """Write ``{"machine": {...}, "records": [...]}``; ``machine`` is a `Machine` or another such dataclass.

    Examples
    --------
    >>> import tempfile
    >>> machine = Machine("a processor", "Linux x86_64", "3.11.0", 2, 2, {"numpy": "2.0"}, 4e11, 2e11, 3e10)
    >>> record = Record("conv", "lenet1", "forward", "cpu", "float32", "ieee", "torch", "bc01", 1e-3, 5e-4, 1e-7, None)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "conv.json"), machine, [record])
    ...     read(Path(folder, "conv.json")) == (machine, [record])
    True
    """
    content = {"machine": dataclasses.asdict(machine), "records": [dataclasses.asdict(record) for record in records]}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read(path: Path, kind: type = Machine) -> tuple[Any, list[Record]]:
    """Read what `write` wrote, with a machine of a ``kind``.

    Raises
    ------
    InvalidRecords
        The file is not one of these; the message says where.
    OSError
        The file cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidRecords(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != {"machine", "records"} or not _is_list(content["records"]):
        raise InvalidRecords(f"{path}: expected an object of a machine and a list of records")
    machine = _checked(kind, content["machine"], f"{path}: machine")
    records = [_checked(Record, entry, f"{path}: record {i}") for i, entry in enumerate(content["records"])]
    for i, record in enumerate(records):
        if record.operation not in OPERATIONS:
            raise InvalidRecords(
                f"{path}: record {i}: operation must be one of {', '.join(OPERATIONS)}, got {record.operation!r}"
            )
    return machine, records


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _checked(kind: type, entry: Any, place: str) -> Any:
    """The dataclass ``kind`` of a JSON object that has its fields, all of the right types.

    Those with a default may be missing: files that were written before there were such fields have none.
    """
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    if not isinstance(entry, dict) or not needed <= set(entry) <= set(fields):
        raise InvalidRecords(f"{place}: expected an object of {', '.join(fields)}, got {entry!r}")
    for name, value in entry.items():
        if not _fits(value, fields[name]):
            raise InvalidRecords(f"{place}: {name} must be {_type_name(fields[name])}, got {value!r}")
    return kind(**entry)


def _fits(value: object, type_: Any) -> bool:
    if get_origin(type_) is dict:
        return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    allowed = get_args(type_) if isinstance(type_, UnionType) else (type_,)
    if isinstance(value, bool):
        return False
    return isinstance(value, allowed) or (float in allowed and isinstance(value, int))


def _type_name(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) and not get_args(type_) else str(type_)
