"""Which sources something on disk was made from: it must not outlive them."""

import functools
import hashlib
from pathlib import Path


@functools.cache
def digest_of(*files: str | Path) -> str:
    """A digest of what files hold, when they are first asked for."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
