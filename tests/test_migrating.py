"""The programs of docs/migrating.md run."""

from pathlib import Path

import pytest

from pytensor_convnet import compat

PAGE = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text()
PROGRAMS = [block.split("```")[0] for block in PAGE.split("```python\n")[1:]]


@pytest.fixture(autouse=True)
def old_names():
    yield
    compat.uninstall()


def test_the_tutorials_layer_runs_after_one_import_more():
    _, after, program, *_ = PROGRAMS
    names = {}
    exec(after + program, names)
    assert names["pooled"].type.shape == (500, 20, 12, 12)
    assert names["output"].ndim == 2


def test_the_tutorials_imports_stay_as_they_are():
    before, after, *_ = PROGRAMS
    assert after.endswith(before.removeprefix("# before\n"))


def test_a_new_program_needs_no_mirror():
    names = {}
    exec(PROGRAMS[3], names)
    assert names["output"].type.shape == (None, 20, 12, 12)


def test_filter_acts_before_and_after_are_the_same_layer():
    import numpy as np
    import pytensor

    before, after = {}, {}
    compat.install()
    exec(PROGRAMS[4], before)
    exec(PROGRAMS[5], after)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 9, 9)).astype("float32"), rng.normal(size=(4, 3, 5, 5)).astype("float32")
    results = [
        pytensor.function([names["images"], names["filters"]], names["pooled"], mode="FAST_COMPILE")(*values)
        for names in (before, after)
    ]
    assert results[0].shape == (2, 4, 4, 4)
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)
