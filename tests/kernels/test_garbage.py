"""Python's search for garbage rests where it is in vain, and goes on after, as before."""

import gc

import pytest

from pytensor_convnet.kernels.garbage import no_garbage_collection


@pytest.fixture(autouse=True)
def enabled_again():
    yield
    gc.enable()


def test_the_search_rests_and_goes_on():
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ValueError), no_garbage_collection():
        raise ValueError
    assert gc.isenabled()


def test_where_it_was_off_it_stays_off():
    gc.disable()
    with no_garbage_collection():
        pass
    assert not gc.isenabled()
