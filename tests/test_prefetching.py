"""Items that a thread makes ahead."""

import threading

import pytest

from pytensor_convnet.prefetching import prefetched


def test_no_more_items_exist_than_there_are_slots():
    made = []
    reached = threading.Event()

    def items():
        for number in range(10):
            made.append(number)
            if number == 2:
                reached.set()
            yield number

    ahead = prefetched(items(), slots=3)
    assert next(ahead) == 0
    assert reached.wait(10)
    # The first is in use and two more are ready; a fourth needs the first one's place.
    assert made == [0, 1, 2]
    assert list(ahead) == list(range(1, 10))


def test_an_error_comes_in_the_place_of_its_item():
    def items():
        yield 1
        raise OSError("the disk is gone")

    ahead = prefetched(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_items_are_made_by_another_thread():
    (thread,) = prefetched(threading.current_thread() for _ in range(1))
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
