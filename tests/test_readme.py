"""The README's ten lines work."""

from pathlib import Path


def test_the_ten_lines_run(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    exec(code, {})
    printed = float(capsys.readouterr().out)
    assert -1 < printed < 1
