"""``theano``: the package itself, as old programs import it."""

from pytensor_convnet.compat.configuration import apply_settings, config, read_settings
from pytensor_convnet.compat.mirror import mirror
from pytensor_convnet.compat.theano import (
    compile,
    gof,
    gradient,
    printing,
    scalar,
    scan_module,
    tensor,
)
from pytensor_convnet.compat.theano.compile import (
    FunctionMaker,
    In,
    Mode,
    OpFromGraph,
    Out,
    Param,
    ProfileStats,
    SymbolicInput,
    SymbolicOutput,
    as_op,
    function,
    predefined_linkers,
    predefined_modes,
    predefined_optimizers,
    shared,
)
from pytensor_convnet.compat.theano.configparser import change_flags
from pytensor_convnet.compat.theano.gof import Apply, Constant, FunctionGraph, Generic, Op, Type, Variable, generic
from pytensor_convnet.compat.theano.gradient import Lop, Rop, grad, subgraph_grad
from pytensor_convnet.compat.theano.misc.safe_asarray import _asarray
from pytensor_convnet.compat.theano.printing import pp, pprint
from pytensor_convnet.compat.theano.scan_module import clone, foldl, foldr, map, reduce, scan
from pytensor_convnet.compat.theano.tensor import (  # programs rely on these imports
    dot,
    get_scalar_constant_value,
    raw_random,
    shared_randomstreams,
)
from pytensor_convnet.compat.theano.updates import OrderedUpdates
from pytensor_convnet.compat.theano.version import version as __version__

__all__ = [
    "Apply",
    "Constant",
    "FunctionGraph",
    "FunctionMaker",
    "Generic",
    "In",
    "Lop",
    "Mode",
    "Op",
    "OpFromGraph",
    "OrderedUpdates",
    "Out",
    "Param",
    "ProfileStats",
    "Rop",
    "SymbolicInput",
    "SymbolicOutput",
    "Type",
    "Variable",
    "__version__",
    "_asarray",
    "as_op",
    "change_flags",
    "clone",
    "compile",
    "config",
    "dot",
    "foldl",
    "foldr",
    "function",
    "generic",
    "get_scalar_constant_value",
    "gof",
    "grad",
    "gradient",
    "map",
    "pp",
    "pprint",
    "predefined_linkers",
    "predefined_modes",
    "predefined_optimizers",
    "printing",
    "raw_random",
    "reduce",
    "scalar",
    "scan",
    "scan_module",
    "shared",
    "shared_randomstreams",
    "subgraph_grad",
    "tensor",
]

__getattr__, __dir__ = mirror(__name__, "pytensor")

apply_settings(read_settings(), config)
