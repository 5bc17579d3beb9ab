"""``theano.compile.mode``."""

from pytensor.compile.mode import FAST_COMPILE, Mode, get_mode

from pytensor_convnet.compat.configuration import config
from pytensor_convnet.compat.device import default_mode
from pytensor_convnet.compat.mirror import mirror

__all__ = ["FAST_COMPILE", "FAST_RUN", "Mode", "get_default_mode", "get_mode"]

FAST_RUN = get_mode("FAST_RUN")


def get_default_mode() -> Mode:
    """The mode of functions that are compiled without one; on a GPU, mode CUDA."""
    return default_mode(config.device)


__getattr__, __dir__ = mirror(__name__, "pytensor.compile.mode")
