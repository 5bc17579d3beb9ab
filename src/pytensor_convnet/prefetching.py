"""Items made by a thread, ahead of the one who uses them."""

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

SLOTS = 3
"""How many items exist at once: one in use, one ready, and one being made."""


def prefetched(items: Iterator[Item], slots: int = SLOTS) -> Iterator[Item]:
    """The same items, taken from ``items`` by a thread while the present one is in use.

    Parameters
    ----------
    items : iterator
        Used by the thread alone. An exception that it raises is raised here, in the place of the item.
    slots : int
        How many items there may be at once. An item is in use until the next one is asked for; so an iterator that
        reuses the memory of ``slots`` items in turn never overwrites one in use.

    Yields
    ------
    item

    Notes
    -----
    The thread ends with the items, or when this generator is closed, which waits for it.

    Examples
    --------
    >>> list(prefetched(iter("abcd")))
    ['a', 'b', 'c', 'd']
    """
    free = threading.Semaphore(slots)
    made: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stopped = threading.Event()

    def make() -> None:
        try:
            while True:
                free.acquire()
                if stopped.is_set():
                    return
                made.put(("item", next(items)))
        except StopIteration:
            made.put(("end", None))
        except BaseException as error:
            made.put(("error", error))

    thread = threading.Thread(target=make, name="prefetching", daemon=True)
    thread.start()
    try:
        while True:
            kind, content = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise content
            yield content
            free.release()
    finally:
        stopped.set()
        free.release()
        thread.join()
