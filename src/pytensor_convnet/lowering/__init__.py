"""Which kernel computes which Op, one module a backend. Only this package knows both.

PyTensor imports a backend's dispatch package when the first function is compiled for it and has no hook for
other packages to join in. So we watch for that import and register our Ops right after it: whoever never
compiles for a backend never pays for importing it.
"""

import importlib
import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder

from pytensor_convnet.lowering import python  # noqa: F401  (registers what `perform` computes)

# After a product of matrices OpenBLAS lets its threads spin for some 26 ms, on the very cores that our kernels want
# next: on two cores that doubles a LeNet step. It reads this when it is loaded, with SciPy, which is after us.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

# And the other way round: after a parallel loop the threads of GNU OpenMP, which Numba uses where there is one, spin
# for some 4 ms on the cores that OpenBLAS wants next. So long that successive kernels find them awake, and no longer.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_REGISTRATIONS = {
    "pytensor.link.numba.dispatch": "pytensor_convnet.lowering.numba",
    "pytensor.link.jax.dispatch": "pytensor_convnet.lowering.jax",
    "pytensor.link.mlx.dispatch": "pytensor_convnet.lowering.mlx",
    "pytensor.link.pytorch.dispatch": "pytensor_convnet.lowering.pytorch",
}


class _RegisterAfterImport(MetaPathFinder):
    """Imports our registrations right after the backend's dispatch package that they extend."""

    def find_spec(self, name, path=None, target=None):
        if name not in _REGISTRATIONS:
            return None
        registration = _REGISTRATIONS.pop(name)  # first, so that the search below does not come back here
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                importlib.import_module(registration)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


for _dispatch, _registration in list(_REGISTRATIONS.items()):
    if _dispatch in sys.modules:
        del _REGISTRATIONS[_dispatch]
        importlib.import_module(_registration)
if _REGISTRATIONS:
    sys.meta_path.insert(0, _RegisterAfterImport())
