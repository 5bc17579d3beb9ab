"""What `docs/cuda-convnet.md` shows works, and its errors are told in its words."""

from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "cuda-convnet.md").read_text()


@pytest.fixture
def names():
    names: dict = {}
    exec(PAGE.split("```python\n")[1].split("```")[0], names)
    return names


def test_the_program_works(names):
    assert names["normalised"].type.shape == (64, 16, 16, None)


@pytest.mark.parametrize("place", [1, 2])
def test_errors_are_told_as_the_page_tells_them(names, place):
    before, error = PAGE.split("    ValueError: ")[place - 1 : place + 1]
    *statements, call = [line[8:] for line in before.split("\n\n")[-1].splitlines()]
    exec("\n".join(statements), names)
    with pytest.raises(ValueError) as raised:
        eval(call, names)
    told = str(raised.value).partition("\nApply node")[0]
    assert told == " ".join(error.split("\n\n")[0].split())
