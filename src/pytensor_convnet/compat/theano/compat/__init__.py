"""``theano.compat``: what Theano took from newer Pythons."""

from collections import Counter, OrderedDict, defaultdict

from pytensor_convnet.compat.mirror import mirror

__all__ = ["Counter", "OrderedDict", "defaultdict"]
__getattr__, __dir__ = mirror(__name__, missing={"six": "import six itself"})
