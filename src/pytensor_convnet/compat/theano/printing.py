"""``theano.printing``."""

from pytensor.printing import Print, debugprint, pp, pprint, pydotprint

from pytensor_convnet.compat.mirror import mirror

__all__ = ["Print", "debugprint", "pp", "pprint", "pydotprint"]
__getattr__, __dir__ = mirror(__name__, "pytensor.printing")
