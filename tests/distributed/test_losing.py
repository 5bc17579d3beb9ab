"""A process that is lost ends the others, soon and with one message each."""

import re
import time

from tests.distributed.launching import PROGRAMS, errors, launch


def test_a_killed_process_is_told_by_the_others():
    result = launch(PROGRAMS / "losing.py", "kill")
    assert result.returncode == 1
    [message] = errors(result)
    assert re.match(r"error: process 0 of 2: another process has stopped or does not answer \(.+\)$", message)


def test_a_process_that_does_not_answer_is_not_waited_for_beyond_the_timeout():
    """Process 0 gives up, torchrun ends process 1, and that one tells it though it is asleep."""
    started = time.monotonic()
    result = launch(PROGRAMS / "losing.py", "sleep", timeout=4)
    assert time.monotonic() - started < 200
    assert result.returncode == 1
    first, second = errors(result)
    assert first.startswith("error: process 0 of 2: another process has stopped or does not answer (")
    assert second.startswith("error: process 1 of 2 was told to end (SIGTERM)")
