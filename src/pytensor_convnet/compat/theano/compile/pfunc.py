"""``theano.compile.pfunc``."""

from pytensor.compile.rebuild import rebuild_collect_shared

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.compile.function import function as pfunc
from pytensor_convnet.compat.theano.compile.io import In, Param

__all__ = ["In", "Param", "pfunc", "rebuild_collect_shared"]
__getattr__, __dir__ = mirror(__name__, "pytensor.compile.rebuild")
