"""``theano.compile``: from graphs to functions."""

from pytensor.compile.debug.profiling import ProfileStats
from pytensor.compile.io import SymbolicInput, SymbolicOutput
from pytensor.compile.maker import FunctionMaker
from pytensor.compile.mode import Mode, predefined_linkers, predefined_modes, predefined_optimizers
from pytensor.compile.sharedvalue import SharedVariable

from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano.compile import mode
from pytensor_convnet.compat.theano.compile.builders import OpFromGraph
from pytensor_convnet.compat.theano.compile.function import function
from pytensor_convnet.compat.theano.compile.io import In, Out, Param
from pytensor_convnet.compat.theano.compile.mode import FAST_COMPILE, FAST_RUN, get_default_mode
from pytensor_convnet.compat.theano.compile.monitormode import MonitorMode
from pytensor_convnet.compat.theano.compile.ops import as_op
from pytensor_convnet.compat.theano.compile.sharedvalue import shared

__all__ = [
    "FAST_COMPILE",
    "FAST_RUN",
    "FunctionMaker",
    "In",
    "Mode",
    "MonitorMode",
    "OpFromGraph",
    "Out",
    "Param",
    "ProfileStats",
    "SharedVariable",
    "SymbolicInput",
    "SymbolicOutput",
    "as_op",
    "function",
    "get_default_mode",
    "mode",
    "predefined_linkers",
    "predefined_modes",
    "predefined_optimizers",
    "shared",
]

__getattr__, __dir__ = mirror(
    __name__,
    "pytensor.compile",
    "pytensor.tensor.shape",
    missing={"ProfileMode": "use theano.function(..., profile=True)"},
)
