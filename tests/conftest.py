"""Settings for the whole suite."""

from importlib.util import find_spec

from hypothesis import HealthCheck, settings

settings.register_profile("suite", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Torch is gigabytes on some systems and no test dependency; SciPy is the independent implementation everywhere.
collect_ignore_glob = [] if find_spec("torch") else ["against_torch/*", "cuda/*", "distributed/*"]
