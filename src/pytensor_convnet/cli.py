"""The command ``pytensor-convnet``, as far as it runs without the packages that it needs: it says what is missing."""

import sys
from importlib.util import find_spec

PACKAGES = {"typer": "typer", "rich": "rich", "matplotlib": "matplotlib", "PIL": "pillow"}
"""What the command line imports, and the names under which it is installed."""


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        sys.exit(
            f"pytensor-convnet: the command line needs {', '.join(missing)}, which is not installed: "
            "pip install 'pytensor-convnet[train]'"
        )
    from pytensor_convnet.commands import app
    from pytensor_convnet.doctor import doctor

    app.command()(doctor)
    app(prog_name="pytensor-convnet")
