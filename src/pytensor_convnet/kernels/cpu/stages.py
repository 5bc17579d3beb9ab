"""Results that no cache holds, on their way past the caches, which saves reading what is overwritten.

That takes whole lines of 64 bytes, written at once. So what a band gives waits on a *stage*, in first-level cache, and
what fills no line waits there for what the next band gives.
"""

from pytensor_convnet.kernels.cpu.emission import address_of, emitted
from pytensor_convnet.kernels.cpu.jit import part
from pytensor_convnet.kernels.cpu.llvm import VECTOR_BYTES
from pytensor_convnet.kernels.cpu.memory import new_array
from pytensor_convnet.kernels.cpu.simd import copy_run, finish_streaming

STREAMED_BYTES = 1 << 25
"""Results of so many bytes are written past the caches."""


@part
def is_streamed(results, planes):
    """Whether results that come from such `Planes` leave past the caches; they must come in order."""
    return results.nbytes >= STREAMED_BYTES and planes.together == 1


@part
def new_stage(results, count, streaming):
    """Memory where ``count`` numbers may wait, if any do."""
    return new_array(((count if streaming else 0) + 5 * VECTOR_BYTES // results.itemsize,), results.dtype)


@part
def _stage_start(stage):
    return (address_of(stage) + VECTOR_BYTES - 1) // VECTOR_BYTES * VECTOR_BYTES


@part
def place_results(results, number, stage, streaming):
    """The address where results from ``number`` on are written: on the stage as far from the start of a line as where
    they belong."""
    place = address_of(results) + number * results.itemsize
    return _stage_start(stage) + place % VECTOR_BYTES if streaming else place


@emitted(arrays=1)
def _write_vectors(e, vector, start, end, target):
    with e.range(0, end - start, VECTOR_BYTES) as offset:
        e.stream(target + offset, e.load(vector, start + offset))


@emitted(arrays=1)
def _move_vector(e, vector, source, target):
    e.store(target, e.load(vector, source))


@part
def leave_stage(stage, results, begin, number, count, last):
    """Write ``count`` numbers that wait on the stage to ``results`` from ``number`` on, in whole vectors.

    What fills none waits for the following, at the start of the stage, unless these are the ``last``. All before
    number ``begin`` are another's.
    """
    item, start, first = results.itemsize, _stage_start(stage), address_of(results)
    held = (first + number * item) % VECTOR_BYTES
    line, end = number * item - held, held + count * item
    whole, skipped = end // VECTOR_BYTES * VECTOR_BYTES, 0
    if whole > 0:
        if line < begin * item:
            skipped = VECTOR_BYTES
            few = (line + skipped) // item - begin
            copy_run(stage, start + skipped - few * item - address_of(stage), results, begin * item, few, False)
        _write_vectors(results, start + skipped, start + whole, first + line + skipped)
        _move_vector(results, start + whole, start)
    if last:
        rest = max(line + whole, begin * item)
        few = (line + end - rest) // item
        copy_run(stage, start + rest - line - whole - address_of(stage), results, rest, few, False)
        finish_streaming()
