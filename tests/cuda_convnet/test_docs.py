"""What `docs/cuda-convnet.md` shows works, and its error is told in its words."""

from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "cuda-convnet.md"


def test_the_page_works():
    text = PAGE.read_text()
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["normalised"].type.shape == (64, 16, 16, None)
    call, error = text.split("    >>> ")[1].split("ValueError: ")
    with pytest.raises(ValueError) as raised:
        eval(call.strip(), names)
    assert str(raised.value) == " ".join(error.split("\n\n")[0].split())
