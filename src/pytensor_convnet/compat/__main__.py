"""``python -m pytensor_convnet.compat SCRIPT [ARGS]`` runs an old Theano program, unmodified, on PyTensor."""

import runpy
import sys
import warnings
from pathlib import Path

from pytensor_convnet.compat import install, old_numpy, old_python, old_six

USAGE = """usage: python -m pytensor_convnet.compat SCRIPT [ARGS]

Runs a Python 3 script that imports theano or pylearn2 on PyTensor, with the operators of pytensor-convnet.
THEANO_FLAGS and .theanorc are read as Theano read them."""

ADVICE_FOR_NEW_PROGRAMS = ("Setting default_update is deprecated", "The `broadcastable` keyword is deprecated")
"""What PyTensor says of things that were the way to do it in Theano, and that work."""


def main() -> None:
    """Run the script that the command line names, as ``python SCRIPT [ARGS]`` would."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(f"python -m pytensor_convnet.compat: there is no script {script}")
    install()
    for module in (old_numpy, old_python):
        module.restore_old_names()
    old_six.provide_six()
    for message in ADVICE_FOR_NEW_PROGRAMS:
        warnings.filterwarnings("ignore", message, DeprecationWarning)
    sys.argv = arguments
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
