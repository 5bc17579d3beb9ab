"""Settings for the whole suite.

Without a GPU the CUDA kernels' tests run in Triton's interpreter. Triton reads ``TRITON_INTERPRET`` when it is
imported, so it is set here, and Triton imported, before any test, or torch in one, does that under another value.
"""

import os
import signal
from importlib.util import find_spec

from hypothesis import HealthCheck, settings

# A job that a shell started in the background ignores Ctrl-C, and so would processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if find_spec("torch") and find_spec("triton"):
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        import triton  # noqa: F401

settings.register_profile("suite", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Torch is gigabytes on some systems and no test dependency; SciPy is the independent implementation everywhere.
collect_ignore_glob = [] if find_spec("torch") else ["against_torch/*", "cuda/*", "distributed/*"]
if not (find_spec("torch") and find_spec("triton")):
    collect_ignore_glob += ["kernels/cuda/common.py", "kernels/cuda/*_in_numpy.py"]
