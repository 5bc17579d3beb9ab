"""What docs/cuda-mode.md shows runs."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cuda-mode.md"


def test_the_pages_first_program_runs(monkeypatch, device, capsys):
    monkeypatch.setenv("PYTENSOR_CONVNET_DEVICE", device)
    [program, *_] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    values: dict = {}
    exec(program.replace("50_000", "512").replace("390", "4"), values)
    printed = float(capsys.readouterr().out)
    assert printed == float(values["value"])
    assert values["w"].get_value().any()
    assert len(values["step"].vm.captures) == 1
