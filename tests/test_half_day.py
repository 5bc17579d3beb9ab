"""The README's chart of whole trainings."""

import importlib.util
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def half_day():
    spec = importlib.util.spec_from_file_location("half_day", BENCHMARKS / "half_day.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_seconds_are_told_as_people_tell_them():
    assert [half_day().told(seconds) for seconds in (1.8, 232, 2612, 43200)] == [
        "1.8 s",
        "3.9 minutes",
        "44 minutes",
        "12 hours",
    ]


def test_the_chart_goes_from_half_a_day_to_seconds():
    seconds = [bar.seconds for bar in half_day().bars()]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == 43200
    assert seconds[-1] < 2


def test_it_is_drawn(tmp_path):
    module = half_day()
    module.draw(module.bars(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
