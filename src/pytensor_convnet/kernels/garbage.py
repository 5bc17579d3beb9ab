"""Python's search for garbage, and when it is in vain."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Let the search rest, in all threads.

    Compiling makes a hundred thousand objects that live until it is done, and longer. Python would look for garbage
    among them, and among all that the program has loaded, for a seventh of the time and more.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
