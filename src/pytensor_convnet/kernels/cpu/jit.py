"""Compiling kernels: Numba's decorators with our defaults, and a disk cache that notices every change.

Numba's own cache watches a kernel's file only: after a change in another file that the kernel calls into, it
would run stale code. Here one fingerprint covers every source that kernels are made from.
"""

import functools
import hashlib
import uuid
from pathlib import Path

import numba
from numba import types
from numba.core.caching import CacheImpl
from numba.extending import intrinsic, register_jitable

from pytensor_convnet import geometry
from pytensor_convnet.kernels.cpu.expressions import formulas
from pytensor_convnet.kernels.cpu.linking import KernelCompiler
from pytensor_convnet.kernels.cpu.translation import sources
from pytensor_convnet.kernels.cpu.translators import BriefTranslator, PartTranslator

for _path in [*sorted(Path(__file__).parent.glob("*.py")), Path(geometry.__file__)]:
    sources[str(_path)] = _path.read_bytes()

FINGERPRINT = hashlib.sha256(b"".join(sources.values())).hexdigest()
"""Changes whenever any kernel's source does; part of every cache key."""


class _KernelCacheLocator:
    """Stores a kernel where Numba would, in files of its own for each `FINGERPRINT`.

    Not only does changed source make old files stale; a process that still runs the old source keeps its files,
    which otherwise it and one that runs the new source would overwrite under each other's eyes.
    """

    @classmethod
    def from_function(cls, py_func, py_file):
        if Path(py_file).parent != Path(__file__).parent:
            return None
        others = (other for other in CacheImpl._locator_classes if other is not cls)
        found = (other.from_function(py_func, py_file) for other in others)
        locator = next((locator for locator in found if locator is not None), None)
        if locator is not None:
            place = locator.get_disambiguator()
            locator.get_source_stamp = lambda: FINGERPRINT
            locator.get_disambiguator = lambda: f"{place}.{FINGERPRINT[:16]}"
        return locator


CacheImpl._locator_classes.insert(0, _KernelCacheLocator)


def part(function=None, **options):
    """Decorator of a function that only kernels call, compiled with each that does (`linking`).

    Constants of a caller are numbers like others. Numba would compile a version for each, and an exception that
    carries numbers would show those of whichever version was read from disk first: the function that gathers
    them bears the same symbol in all.

    Arithmetic is as it is written, unless ``fastmath`` says otherwise. Numba would take that over from whoever calls a
    kernel first, as a function of PyTensor that may reorder sums, and keep on disk what came of it.
    """
    if function is None:
        return functools.partial(part, **options)
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    options = {"error_model": "numpy", "fastmath": False, **wrappers, **options}
    dispatcher = numba.njit(**options)(function)
    version_for = dispatcher.get_call_template

    def version_for_any_number(arguments, named):
        unnamed = tuple(map(types.unliteral, arguments))
        return version_for(unnamed, {name: types.unliteral(argument) for name, argument in named.items()})

    dispatcher.get_call_template = version_for_any_number
    return dispatcher


plain_part = functools.partial(part, pipeline_class=PartTranslator)
"""Decorator of a part that is translated (`translation`), which takes a fifth of the time."""

leaf_part = functools.partial(part, _nrt=False, pipeline_class=PartTranslator)
"""The same for one that allocates and raises nothing: it does not count references to arrays, which in the loops around
register blocks took a tenth of the time."""


def keep_on_disk(dispatcher):
    """Let Numba keep what it compiles for ``dispatcher`` on disk.

    Numba numbers the stored versions of a function. Two processes that store different ones at once may give them the
    same number, and each would then run the other's code. So what is stored gets a name that nothing else has.
    """
    dispatcher.enable_caching()
    files = dispatcher._cache._cache_file
    stem = files._index_name.removesuffix(".nbi")
    files._data_name = lambda number: f"{stem}.{uuid.uuid4().hex[:12]}.nbc"


def kernel(function=None, **options):
    """Decorator of a kernel that runs on the calling thread, compiled by Numba and kept on disk."""
    if function is None:
        return functools.partial(kernel, **options)
    wrappers = {"no_cpython_wrapper": False, "pipeline_class": KernelCompiler}
    dispatcher = part(function, **{**wrappers, **options})
    keep_on_disk(dispatcher)
    return dispatcher


plain_kernel = functools.partial(kernel, pipeline_class=BriefTranslator)
"""Decorator of a kernel that is translated, as `plain_part`, and leaves the work to others."""


def callback(signature):
    """Decorator of a function that C calls, at its ``address``: translated, as `plain_part`, and kept on disk."""
    return numba.cfunc(signature, cache=True, error_model="numpy", pipeline_class=BriefTranslator)


# The formulas exist once, in geometry; this lets kernels call them.
for _formula in (
    geometry.minimum,
    geometry.maximum,
    geometry.dilated_length,
    geometry.correlation_length,
    geometry.pool_length,
):
    formulas[_formula] = leaf_part(register_jitable(_formula))


@intrinsic
def any_layout(typing_context, array):
    """The same array, read-only, typed as having arbitrary strides.

    A kernel that takes its arrays this way is compiled once for each dtype and number of axes, and not again
    for every combination of contiguous, strided and read-only arguments.
    """
    general = types.Array(array.dtype, array.ndim, "A", readonly=True)

    def codegen(context, builder, signature, arguments):
        if context.enable_nrt:
            context.nrt.incref(builder, signature.return_type, arguments[0])
        return arguments[0]

    return general(array), codegen
