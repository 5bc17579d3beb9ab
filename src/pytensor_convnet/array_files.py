"""Files of named arrays (``.npz``), written whole or not at all, and read as what they are: a stranger's.

Nothing is unpickled, and no array is read before its name, dtype and shape are what the reader asks for, so that a
file can neither run code nor ask for more memory than its own size.
"""

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SystemError,
    ValueError,
    struct.error,
)
"""What zipfile and NumPy raise when bytes are not as they were written."""


class CorruptCheckpoint(ValueError):
    """A file does not hold a trained network, or not a whole one."""


def write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Write arrays to an uncompressed ``.npz``.

    The file appears whole or not at all: it is written under another name beside ``path`` and then renamed.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    arrays : mapping of str to array

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with _replacing(Path(path)) as file:
        np.savez(file, **arrays)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``path`` once all is written."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power failure could leave the new name on no content
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def reading(path: Path | str) -> Iterator["ArrayReader"]:
    """Open a file of arrays; whatever turns out to be damaged while it is open is a `CorruptCheckpoint`.

    Parameters
    ----------
    path : path

    Yields
    ------
    ArrayReader

    Raises
    ------
    CorruptCheckpoint
        The message names the file and says what is wrong.
    OSError
        The file cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield ArrayReader(path, archive)
        except CorruptCheckpoint:
            raise
        except DAMAGE as error:
            raise CorruptCheckpoint(f"{path}: expected a trained network (.npz), found it damaged: {error}") from error


class ArrayReader:
    """Reads a file's arrays, each only once it is known to be what it must be."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self.archive = archive
        self.size = path.stat().st_size
        self.members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}

    def corrupt(self, expected: str, found: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path}: expected {expected}, found {found}")

    def text(self, name: str) -> str:
        return self.array(name, np.dtype(np.str_), ()).item()

    def integer(self, name: str) -> int:
        return self.array(name, np.dtype(np.int64), ()).item()

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self.array(name, np.dtype(np.float32), shape)
        if not np.isfinite(array).all():
            raise self.corrupt(f"{name} to be finite", "NaN or infinity")
        return array

    def array(self, name: str, dtype: np.dtype, shape: tuple[int | None, ...]) -> np.ndarray:
        """The array ``name``, which must have this dtype (strings may be of any length) and shape (None is any)."""
        member = self.members.get(name)
        if member is None:
            raise self.corrupt(f"an array {name}", "none")
        # Stored as it is, an array is no larger than the file; compressed, it could be a thousand times as large.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > self.size:
            raise self.corrupt(f"{name} uncompressed", "it compressed")
        with self.archive.open(member) as file:
            self.check_header(name, file, member.file_size, dtype, shape)
        with self.archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def check_header(
        self, name: str, file: IO[bytes], size: int, dtype: np.dtype, shape: tuple[int | None, ...]
    ) -> None:
        """Raise unless the array that ``file`` begins with is of this dtype and shape, and fills the file."""
        if np.lib.format.read_magic(file) != (1, 0):
            raise self.corrupt(f"{name} in NumPy's format 1.0", "another")
        found_shape, _, found_dtype = np.lib.format.read_array_header_1_0(file)
        right_dtype = found_dtype.kind == "U" if dtype.kind == "U" else found_dtype == dtype
        right_shape = len(found_shape) == len(shape) and all(s in (None, f) for s, f in zip(shape, found_shape))
        if not (right_dtype and right_shape):
            expected = f"{name} to be {dtype.name} of shape {shape}"
            raise self.corrupt(expected, f"{found_dtype.name} of shape {found_shape}")
        content = np.prod(found_shape, dtype=object) * found_dtype.itemsize
        if content != size - file.tell():
            raise self.corrupt(f"{content} bytes of {name}", f"{size - file.tell()}")
