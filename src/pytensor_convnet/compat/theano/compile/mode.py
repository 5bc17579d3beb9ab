"""``theano.compile.mode``."""

from pytensor.compile.mode import FAST_COMPILE, Mode, get_default_mode, get_mode

from pytensor_convnet.compat.mirror import mirror

__all__ = ["FAST_COMPILE", "FAST_RUN", "Mode", "get_default_mode", "get_mode"]

FAST_RUN = get_mode("FAST_RUN")

__getattr__, __dir__ = mirror(__name__, "pytensor.compile.mode")
