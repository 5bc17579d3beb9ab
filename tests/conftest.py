"""Settings for the whole suite."""

import signal
from importlib.util import find_spec

from hypothesis import HealthCheck, settings

# A job that a shell started in the background ignores Ctrl-C, and so would processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("suite", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Torch is gigabytes on some systems and no test dependency; SciPy is the independent implementation everywhere.
collect_ignore_glob = [] if find_spec("torch") else ["against_torch/*", "cuda/*", "distributed/*"]
