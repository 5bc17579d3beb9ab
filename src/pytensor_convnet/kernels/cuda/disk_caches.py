"""What lies on disk for later processes: small files, each named by a digest of all that its content depends on.

A file is written whole or not at all, so processes that write the same one at once do no harm to each other.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def folder_of(variable: str, name: str) -> Path:
    """What an environment variable names; by default ``pytensor-convnet/name`` in the user's cache folder."""
    named = os.environ.get(variable)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(caches) / "pytensor-convnet" / name


def file_of(folder: Path, facts: str, suffix: str) -> Path:
    """The file whose content depends on ``facts``."""
    return folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:40]}{suffix}"


def keep(file: Path, content: bytes) -> None:
    """Write a file; where the disk refuses, nothing is kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=file.parent, suffix=".part", delete=False) as part:
            part.write(content)
        os.replace(part.name, file)
