"""Ctrl-C between steps, never within one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, and so will programs for good that are started meanwhile. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:  # which a handler is that is not Python's
            signal.signal(signal.SIGINT, before)


@contextmanager
def interrupts_held_back(agree: Callable[[bool], bool] = bool) -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that this yields is called, which then raises `KeyboardInterrupt`.

    Within compiled code the interrupt would surface as a SystemError, or between the updates of two parameters. A
    second Ctrl-C does not wait. Where Ctrl-C does not raise `KeyboardInterrupt` in this thread, nothing is changed.

    Parameters
    ----------
    agree : function of bool, optional
        From whether Ctrl-C was pressed here to whether to stop, as several processes agree on it (`Processes.any`).

    Yields
    ------
    function of ()
    """
    pressed = 0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            signal.default_int_handler(number, frame)

    def raise_if_interrupted() -> None:
        if agree(pressed > 0):
            raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raise_if_interrupted
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
