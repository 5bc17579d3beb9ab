"""The benchmark suite; so far its cases, which `benchmarks/first_table.py` measures."""
